"""Collections: documents are cut into passages, an index finds the best of them, and a reader answers from these."""
