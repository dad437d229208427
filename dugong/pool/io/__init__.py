"""The threads of a pool's connections, and what they drive.

engine.py       what the pool knows of a protocol      http1.py   HTTP/1.1 as such an engine
sender.py       takes requests from the queue and sends them
receiver.py     receives responses and reports them
recording.py    keeps the bytes of exchanges, if a pool wants them
caller_runs.py  one request in the thread of its caller
"""
