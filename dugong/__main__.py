"""`python -m dugong`; see `dugong.cli`."""

from dugong.cli import run

run()
