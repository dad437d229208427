"""The version of dugong, for the package and for its build. Imports nothing."""

__version__ = "4.0.0.dev0"
