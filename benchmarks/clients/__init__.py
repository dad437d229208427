"""The clients that are compared, one small program each; `worker` is what they have in common."""
