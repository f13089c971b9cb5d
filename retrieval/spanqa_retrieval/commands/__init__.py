"""The commands of collections."""
