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

    python -m tests.soak.crawl

crawl.py         a soak of its own: `dugong crawl` on many sites, which is killed in the middle
crawl_sites.py   the sites, of which all responses follow from a seed
crawl_server.py  the process that serves them, and notes each request
crawl_archive.py what is read of the files of the crawler
crawl_verdict.py whether the crawl balances

    python -m tests.soak.backup

backup.py        a backup and a restore, which are killed, with backup_*.py
"""
