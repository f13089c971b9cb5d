"""Families of encoders as Hugging Face writes them: a table each of configuration keys and of weights."""
