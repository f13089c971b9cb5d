"""Tokenizers that come without a tokenizer.json, or with one that leaves something to the model's configuration."""
