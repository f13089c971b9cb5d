"""The exceptions of collections.

* CollectionError: an index, or what is to go into it
  x SourceError: a file that cannot be read into documents; the rest is indexed
  x BusyError: another process writes the index
"""

from spanqa.errors import SpanqaError


class CollectionError(SpanqaError):
    """An index cannot be made, opened or asked as it was wanted."""


class SourceError(CollectionError):
    """A file cannot be read into documents, in one line that says why."""


class BusyError(CollectionError):
    """Another process writes the index: one at a time may."""
