"""Other HTTP libraries send through a `ConnectionPool`: one module for each, and nothing else here.

Each needs the library that it is for, which is an extra of this package. Nothing of dugong imports
them.
"""
