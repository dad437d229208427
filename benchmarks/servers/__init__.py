"""The servers that nginx cannot be: `far` is slow to answer, `sink` takes uploads.

Each is a process of its own, prints the port that it listens on, and ends with its input.
"""
