"""The pool: a few connections per host, each with a sender and a receiver thread.

pool.py        ConnectionPool: the public class
request.py     Request                           response.py    Response, StreamedResponse, Attempt
url.py         what a URL says                   body.py        request bodies
future.py      ResponseFuture                    oneshot.py     bodies that were used up
hints.py       what other clients call things    many.py        map() and as_completed()
prepare.py     a Request becomes a Job           dialer.py      how to connect
scheduler.py   the one lock, and all that is decided under it: here, for callers
  traffic.py     for the threads of the connections
  connections.py when connections are opened, and how they end
  resending.py   what becomes of requests that have failed
  shared.py      what these share
  dispatch.py    which requests go to which connection: no I/O, no lock
  host.py        one origin: its queue, its connections, what it has taught us
  job.py         one request on its way
pipeline.py    one connection and its two threads
  direct.py      a request in the thread that asks for it
  sender.py      takes from the queue and sends
  receiver.py    receives and resolves
retry/         whether and when a request is sent again: the policy, and the function that decides;
               the same for a caller's own functions that use an HTTPConnection
events.py      what those hear who listen
failure.py     what a request fails with, and the verdict
timers.py      deadlines, idle connections       statistics.py  frozen snapshots
fork.py        the child of a fork starts afresh
"""
