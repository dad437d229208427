"""One HTTP/1.1 connection. Starts no threads and knows nothing of pools.

connection.py  HTTPConnection: the public class
session.py     Http1Session: has the two sides of a connection and what they share
  sending.py     connect, send requests and bodies
  receiving.py   read responses         bodies.py   read their bodies
  state.py       what the two share, and who owns it
exchange.py    one request and its response
encode.py      request heads, out             parser.py   response heads and bodies, in
head.py        the lines of heads, both ways  framing.py  which body follows a head
readers.py     response bodies                writers.py  request bodies
buffer.py      the receive buffer             cache.py    what is worked out again and again
wire.py        send all, receive a head       dial.py     resolve, connect, tunnel
names.py       host names, resolving          network.py  which addresses are dialled
proxy.py       what a proxy is told           socks.py    the same by SOCKS
transport.py   plain sockets                  tls.py      the same with TLS
nested.py      TLS in TLS
copying.py     shows what goes over a transport
tracing.py     DUGONG_TRACEFILE
polling.py     coroutines, blocking driver    aio.py      asyncio driver
"""
