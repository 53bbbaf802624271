"""The tables of the cache."""
