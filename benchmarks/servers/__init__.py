"""The servers that nginx cannot replace: `far` delays its responses, `sink` receives uploads.

Each is a process that prints the port that it listens on, and ends at the end of its input.
"""
