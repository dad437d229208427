"""What nginx cannot replace: `far` is a relay that delays, `sink` is a server that takes uploads.

Each is a process that prints the port that it listens on, and ends at the end of its input.
"""
