"""A training run: its loop, processes, state and log."""
