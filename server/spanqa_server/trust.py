"""What a connection with TLS is made with."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What a connection with TLS is made with.

    Args:
        roots: Certificates in PEM of those who may sign the server's; None for the ones that gRPC brings.
        chain: The certificates in PEM to show to the server; None for none.
        key: The private key of that.
        authority: The name that the server's certificate must hold; None for that in the address.
    """

    roots: bytes | None
    chain: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    authority: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Give it as gRPC takes it."""
        return grpc.ssl_channel_credentials(self.roots, self.key, self.chain)

    def options(self) -> list[tuple[str, str]]:
        """Give the options of a channel."""
        names = ("grpc.default_authority", "grpc.ssl_target_name_override") if self.authority else ()
        return [(name, str(self.authority)) for name in names]
