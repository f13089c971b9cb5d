"""Answering datasets offline."""
