"""Asking a spanqa server, and scoring answers with SQuAD's metrics."""
