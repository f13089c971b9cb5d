"""The encoder, one for all families: its architecture as data, and what it is made of."""
