"""TLS of the gRPC endpoint: its files held against each other before Triton meets them, and Triton's options."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

from spanqa_server.errors import TlsError
from spanqa_server.trust import Trust

READABLE_BY_OTHERS = 0o004
SOON_S = 14 * 86_400
"""A certificate that expires sooner is told of when the server starts."""
HANDSHAKE_TURNS = 8
"""More than the messages that two sides of a TLS handshake exchange."""
WILDCARD_NAME = "spanqa"
"""What stands for the star of a certificate's name, where the server calls itself by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """The files, all in PEM, that make a server speak TLS.

    Args:
        certificate: The server's certificate chain, its own first.
        key: Its private key, not encrypted.
        client_ca: The certificates of those who may sign a client's, for mutual TLS; None lets any client ask.
        own_certificate: With mutual TLS, what the server shows when it asks itself; None for its own certificate.
        own_key: The key of that.

    Raises:
        TlsError: If a file is missing that belongs to another.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None
    own_certificate: Path | None = None
    own_key: Path | None = None

    def __post_init__(self) -> None:
        if (self.own_certificate is None) != (self.own_key is None):
            raise TlsError("a certificate that the server shows itself needs its key: give both, or neither")
        if self.own_certificate is not None and self.client_ca is None:
            raise TlsError("the server shows itself a certificate with mutual TLS only: name a client CA too")

    def triton_options(self) -> list[str]:
        """Give Triton's arguments."""
        options = [f"--grpc-server-cert={self.certificate}", f"--grpc-server-key={self.key}"]
        if self.client_ca is None:
            return ["--grpc-use-ssl=true", *options]
        return ["--grpc-use-ssl-mutual=true", *options, f"--grpc-root-cert={self.client_ca}"]

    def own_trust(self) -> Trust:
        """Give what the server needs to ask itself: it trusts its own certificate, whoever signed it.

        Raises:
            TlsError: If the files cannot be read, or do not belong together.
        """
        peer = self._handshake()
        return Trust(
            roots=_read(self.certificate, "the server's certificate"),
            chain=None if self.client_ca is None else _read(self.own_certificate or self.certificate, "a certificate"),
            key=None if self.client_ca is None else _read(self.own_key or self.key, "a key"),
            authority=_name_in(peer, self.certificate),
        )

    def warnings(self) -> list[str]:
        """Say what is not as it should be, though the server can start.

        Raises:
            TlsError: If it cannot.
        """
        lines = [
            f"{key} can be read by every user of this machine: chmod 600 it"
            for key in (self.key, self.own_key)
            if key is not None and key.stat().st_mode & READABLE_BY_OTHERS
        ]
        expires_at = ssl.cert_time_to_seconds(self._handshake()["notAfter"])
        if expires_at - time() < SOON_S:
            days = (expires_at - time()) / 86_400
            lines.append(f"{self.certificate} expires in {days:.1f} days: renew it, and start the server anew")
        return lines

    def _handshake(self) -> dict[str, Any]:
        """Let the server and the client that it is to itself shake hands; gives what the latter sees of the server."""
        for path, what in (
            (self.certificate, "the server's certificate"),
            (self.key, "the server's key"),
            *(((self.client_ca, "the client CA"),) if self.client_ca else ()),
            *(((self.own_certificate, "the server's own client certificate"),) if self.own_certificate else ()),
            *(((self.own_key, "its key"),) if self.own_key else ()),
        ):
            _read(path, what)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _load_pair(server, self.certificate, self.key)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        client.load_verify_locations(self.certificate)
        if self.client_ca is not None:
            server.verify_mode = ssl.CERT_REQUIRED
            try:
                server.load_verify_locations(self.client_ca)
            except ssl.SSLError as error:
                raise TlsError(f"{self.client_ca} holds no certificate in PEM: give the CA's of the clients") from error
            _load_pair(client, self.own_certificate or self.certificate, self.own_key or self.key)
        return self._shaken(server, client)

    def _shaken(self, server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, Any]:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        sides = {
            "client": client.wrap_bio(to_client, to_server),
            "server": server.wrap_bio(to_server, to_client, server_side=True),
        }
        for _ in range(HANDSHAKE_TURNS):
            for name, side in sides.items():
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                except ssl.SSLError as error:
                    raise TlsError(self._refusal(name, error)) from error
        return sides["client"].getpeercert() or {}

    def _refusal(self, side: str, error: ssl.SSLError) -> str:
        reason = getattr(error, "verify_message", "") or error.reason or str(error)
        if side == "client":
            return f"{self.certificate} is no certificate that a client takes ({reason}): renew it"
        shown = self.own_certificate or self.certificate
        return (
            f"with a client CA the server asks itself too, and shows {shown}, which {self.client_ca} does not vouch "
            f"for ({reason}): give one that it signed, for clients, as --tls-own-cert and --tls-own-key"
        )


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path}: {what} cannot be read: {error.strerror}") from error


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    def refuse() -> str:
        raise TlsError(f"{key}: the key is encrypted, which Triton cannot open: give it without")

    try:
        context.load_cert_chain(certificate, key, password=refuse)
    except ssl.SSLError as error:
        raise TlsError(
            f"{certificate} and {key} are no certificate and its key in PEM ({error.reason or error}): give the two "
            "that belong together"
        ) from error


def _name_in(peer: dict[str, Any], certificate: Path) -> str:
    """A name or address that the certificate is for."""
    # A directory's name is no text, and nothing that a client could ask for.
    names = [name for _, name in sorted(peer.get("subjectAltName", ())) if name and isinstance(name, str)]
    if not names:
        raise TlsError(f"{certificate} is for no name (subjectAltName), so no client takes it: make one that is")
    return str(names[0]).replace("*", WILDCARD_NAME)
