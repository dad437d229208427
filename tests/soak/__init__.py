"""A soak: for minutes, many threads ask a hostile server for things, and every answer is checked.

    make soak SECONDS=120 SEED=7

server.py        the server, a process of its own
conversation.py  one connection of it: `answer_line` and `filling` say what is right
relay.py         a proxy, on one of its ports
ledger.py        what was asked, what came of it, and whether that agrees with what the server saw
events.py        what the pools say of themselves, and whether that agrees with what came of it
questions.py     what is asked, by which retry policies, and what the answer has to be
clients.py       the threads that ask, in all the ways there are
soak.py          rounds of pools with different limits, and the verdict
"""
