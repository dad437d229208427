"""The proof: faults are put in on purpose, and nothing may be lost, doubled or swapped.

faults.py    which faults there are, and which request or connection is to have one
proxy.py     between the pool and the server, where they happen
server.py    the server, and its book of what it has processed
gate.py      a port that can be opened and shut: the server's, the proxy's
site.py      a server, a proxy and a pool; what is right to be answered

test_each_fault.py    every fault alone, with the requests around it
test_ways.py          every fault alone, in each way to send and to receive
test_many_faults.py   thousands of requests with faults at random
test_outages.py       the network goes away, the server restarts
test_addresses.py     names do not resolve, an address is dead
test_proof.py         whether the proof would notice

With TLS it is the proxy that shakes hands with the pool, so that it sees the same bytes as without
and can put the same faults between them; it talks plainly to the server behind it. A garbled byte
is one that breaks the framing: of any other, nobody could know without TLS. A request that the
server cannot make sense of ends its connection, for a 400 would be an answer.
"""
