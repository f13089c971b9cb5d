"""The commands `ask`, `predict`, `score` and `bench`."""
