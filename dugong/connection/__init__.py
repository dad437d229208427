"""One HTTP/1.1 connection. Starts no threads and knows nothing of pools.

connection.py  HTTPConnection: the public class
duplexer.py    the two directions of a connection as one thing
  sending.py     connect, send requests and bodies
  receiving.py   read answers and bodies
  shared.py      what the two share, and who owns it
exchange.py    one request and its answer
request.py     from arguments to bytes        head.py     heads, both ways
framing.py     which body follows a head      readers.py  response bodies
writers.py     request bodies                 buffer.py   the receive buffer
wire.py        send all, receive a head       dial.py     race addresses, tunnel, TLS
names.py       host names, resolving          proxy.py    what a proxy is told
transport.py   plain sockets                  tls.py      the same with TLS
tracing.py     DUGONG_TRACEFILE
polling.py     coroutines, blocking driver    aio.py      asyncio driver
"""
