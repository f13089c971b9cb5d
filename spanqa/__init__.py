"""spanqa: the exact span of a text that answers a question, or that there is none."""

__version__ = "0.1.0"
