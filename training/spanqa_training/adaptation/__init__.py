"""Continued training of the language model on plain text, before any question is asked."""
