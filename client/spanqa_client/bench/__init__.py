"""Measuring a server: load, what it costs where, when it is too much, and whether two runs differ."""
