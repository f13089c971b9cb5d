"""Specs: what they can say, and the files that say it."""
