"""The version of quantmill. The digests of unfinished work depend on it."""

__version__ = "0.1.0"
