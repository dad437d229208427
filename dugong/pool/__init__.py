"""The pool: a few connections per host, each with a sender and a receiver, in one thread or two.

pool.py        ConnectionPool: the public class
request.py     Request                           response.py    Response, StreamedResponse, Attempt
url.py         what a URL says                   body.py        request bodies
filepart.py    FilePart                          bodybase.py    what they have in common
future.py      ResponseFuture                    oneshot.py     bodies that were used up
hints.py       what other clients call things    many.py        map() and as_completed()
prepare.py     a Request becomes a Job           dialer.py      how to connect
host_policy.py HostPolicy                        settings.py    settings that never change
events.py      what on_event is told             statistics.py  frozen snapshots
recording.py   what record is given              checks.py      of numbers and switches
failure.py     what a request fails with         fork.py        the child of a fork starts afresh
core/          everything that is decided, under one lock, without I/O
io/            the threads, and the engine that speaks the protocol
retry/         whether and when a request is sent again: the policy, and the function that decides;
               the same for a caller's own functions that use an HTTPConnection
"""
