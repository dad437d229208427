"""A soak: for minutes, many threads ask a hostile server for things, and every answer is checked.

    make soak SECONDS=120 SEED=7

server.py    the server, a process of its own: `answer_line` and `filling` say what is right
ledger.py    what was asked, what came of it, and whether that agrees with what the server saw
clients.py   the threads that ask, in all the ways there are
soak.py      rounds of pools with different limits, and the verdict
"""
