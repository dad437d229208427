"""Retries: `RetryPolicy`, which says whether and when, and `retrying`, for functions that use an
`HTTPConnection`.

policy.py      the policy, and the one function that decides what may be sent again
decorator.py   `retrying`
repeating.py   how a function is called again: blocking, as a coroutine, under asyncio

Imports none of them, because a pool needs the policy alone, and the others take long to load.
"""
