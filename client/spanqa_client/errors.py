"""The exceptions of asking a server, drawn as one tree.

* ClientError (a SpanqaError): asking failed
  x ServerUnavailable: nothing answers at the address, or the server lacks the model
    - TrustError: the two sides do not agree about TLS, a certificate or a token
  x Timeout: the answer did not come in time
  x BadRequest: the server refused the question, the context or an option
  x ServerFault: the server failed at a good request
  x ProtocolError: the server's response is not what the wire contract says
* BenchError (a SpanqaError): perf_analyzer is missing, or did not measure

What the client refuses before sending is the core's InputError.
"""

from spanqa.errors import SpanqaError


class ClientError(SpanqaError):
    """Asking a server failed."""


class ServerUnavailable(ClientError):
    """Nothing answers at the address, or the server does not have the model."""


class TrustError(ServerUnavailable):
    """Client and server do not agree about TLS, a certificate or a token: asking again does not help."""


class Timeout(ClientError):
    """The answer did not come within the time allowed."""


class BadRequest(ClientError):
    """The server refused the request as invalid."""


class ServerFault(ClientError):
    """The server failed at a request that it had accepted."""


class ProtocolError(ClientError):
    """The response lacks outputs, or their shapes and types differ from the wire contract."""


class BenchError(SpanqaError):
    """perf_analyzer cannot be run, or measured nothing."""
