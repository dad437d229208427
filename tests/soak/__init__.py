"""A soak: for minutes, many threads make requests to a hostile server; each response is checked.

    make soak SECONDS=120 SEED=7

server.py        the server, which is a process
conversation.py  one connection of the server; `response_line` and `filling` make the right response
relay.py         a proxy, on one of the server's ports
ledger.py        the requests and their outcomes, which are compared with what the server saw
events.py        the events of the pools, which are compared with the outcomes
questions.py     the requests, the retry policies, and the check of a response
clients.py       the threads that make the requests, in all ways that a pool has
soak.py          rounds of pools with different limits, and the verdict

backup.py        a backup and a restore, which are killed, with backup_*.py
"""
