"""Everything that a pool decides, under its one lock. No I/O: `dugong.pool.io` does that.

core.py         the lock, the transaction, the counters; threads.py, callbacks.py: what follows one
readers.py      threads for event loops
scheduler.py    the facade for callers            traffic.py   the same for the connections' threads
progress.py     what is noted of responses        lending.py   what callers do on a connection
connections.py  when connections are opened       closing.py   how they end
room.py         how many there may be             rescue.py    what waits behind a slow response
retries.py      `complete`: how a request ends, or is tried again
gate.py         when requests may start           politeness.py  what waits for that
maintenance.py  timers (timers.py), their thread  rate.py      the speed of bodies
recovery.py     after an interrupt, and a fork    snapshot.py  what can be seen
dispatch.py     which requests go where            faults.py    after a bug of dugong
job.py          one request on its way            host.py      one origin, its queue and connections
connection.py   one connection                    pipelining.py  how far a host may be pipelined
"""
