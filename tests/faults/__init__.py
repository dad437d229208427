"""The proof: faults are injected, and no response may be lost, duplicated or swapped.

faults.py    the faults, and which request or connection gets one
proxy.py     the proxy between the pool and the server, which injects the faults
server.py    the server, which records the requests that it has processed
gate.py      a port that can be opened and shut: that of the server, that of the proxy
site.py      a server, a proxy and a pool; the right response to each request

test_each_fault.py    every fault alone, with the requests around it
test_ways.py          every fault alone, in each way to send and to receive
test_many_faults.py   thousands of requests with random faults
test_outages.py       the network is down, the server restarts
test_addresses.py     names do not resolve, an address is dead
test_proof.py         whether the proof would notice a mistake

With TLS, the proxy performs the handshake with the pool, so that it sees the same bytes as without
TLS and can inject the same faults; it uses no TLS to the server. A garbled byte always breaks the
framing, because without TLS no client could notice any other. If the server cannot parse a request,
it closes the connection, because a 400 would be a response.
"""
