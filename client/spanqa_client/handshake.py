"""TLS by Python's own library: files held before gRPC meets them, and what ended a handshake that gRPC cannot tell."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from spanqa.errors import InputError
from spanqa_client.security import ConnectionSettings
from spanqa_client.servers import Server

_ALPN = ["h2"]
"""HTTP/2 is what gRPC speaks, and its servers talk to nobody else."""


def pem_from(path: str | Path, what: str) -> bytes:
    """Read a file of certificates or a key.

    Args:
        path: The file.
        what: What it holds, for the error.

    Raises:
        InputError: It cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {what} cannot be read: {error.strerror}") from error


def check_files(settings: ConnectionSettings) -> None:
    """Refuse files that gRPC would not take, or only when it connects.

    Raises:
        InputError: One holds no certificate, or the key is not the certificate's.
    """
    context = _context(settings)
    if settings.certificate_file is None or settings.key_file is None:
        return
    pem_from(settings.certificate_file, "the client's certificate")
    pem_from(settings.key_file, "the client's key")

    def refuse() -> str:
        raise InputError(f"{settings.key_file}: the key is encrypted, which gRPC cannot open: give it without")

    try:
        context.load_cert_chain(settings.certificate_file, settings.key_file, password=refuse)
    except ssl.SSLError as error:
        raise InputError(
            f"{settings.certificate_file} and {settings.key_file} are no certificate and its key in PEM "
            f"({error.reason or error}): give the two that belong together"
        ) from error


def handshake_fault(server: Server, settings: ConnectionSettings, wait_s: float) -> str:
    """Say why a server ends connections as soon as they are made; "" where TLS is not why.

    Args:
        server: The server.
        settings: How it is connected to.
        wait_s: How long this may take.
    """
    context = _context(settings)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if settings.certificate_file is not None:
        context.load_cert_chain(settings.certificate_file, settings.key_file)
    try:
        with (
            socket.create_connection((server.host, server.port), wait_s) as plain,
            context.wrap_socket(plain, server_hostname=settings.authority or server.host) as secured,
        ):
            if not settings.is_secure:
                return f"{server.url}: the server speaks TLS alone: ask it with TLS (a CA file, or tls)"
            # In TLS 1.3 a server looks at the client's certificate only after the client's part of the handshake: it
            # then speaks HTTP/2, or ends the connection, with an alert or without.
            return "" if _speaks(secured) else _of_certificate(server, settings)
    except ssl.SSLError as error:
        is_told = settings.is_secure and "ALERT" in (error.reason or "")
        return _of_certificate(server, settings) if is_told else ""
    except OSError:
        return ""


def _speaks(secured: ssl.SSLSocket) -> bool:
    try:
        return bool(secured.recv(1))
    except TimeoutError:
        return True  # it keeps the connection
    except OSError:
        return False


def _of_certificate(server: Server, settings: ConnectionSettings) -> str:
    if settings.certificate_file is None:
        return f"{server.url}: the server wants a client's certificate: give one, with its key"
    return (
        f"{server.url}: the server does not take the client's certificate {settings.certificate_file}: give one that "
        "is signed by a CA of the server's, and in its time"
    )


def _context(settings: ConnectionSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(_ALPN)
    if settings.ca_file is not None:
        pem = pem_from(settings.ca_file, "the CA's certificates")
        try:
            # Comments between certificates may be in any language.
            context.load_verify_locations(cadata=pem.decode("ascii", "ignore"))
        except (ssl.SSLError, ValueError, TypeError) as error:
            reason = getattr(error, "reason", None) or error
            raise InputError(f"{settings.ca_file}: holds no certificate in PEM ({reason}): give the CA's") from error
    return context
