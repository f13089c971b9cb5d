"""Certificates made for a test: a CA, and whom it signs."""

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = datetime.datetime.now(datetime.timezone.utc)
LOOPBACK = ("localhost", "127.0.0.1")


class Authority:
    """A CA whose files lie in a folder; `issue` adds those of others."""

    def __init__(self, folder, name="ca"):
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = self._signed(name, self._key.public_key(), None, is_ca=True)
        self.file = self._write(f"{name}.pem", self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name, hosts=LOOPBACK, *, days=(-1, 2)):
        """Write a key and a certificate for hosts, valid from and until so many days from now; gives both files."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._signed(name, key.public_key(), self._certificate, hosts=hosts, days=days)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return (
            self._write(f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM)),
            self._write(f"{name}.key", pem),
        )

    def _write(self, name, content):
        path = self.folder / name
        path.write_bytes(content)
        return path

    def _signed(self, name, public_key, issuer, *, is_ca=False, hosts=(), days=(-1, 2)):
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.subject if issuer else subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + datetime.timedelta(days=days[0]))
            .not_valid_after(NOW + datetime.timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(map(_name, hosts))), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _name(host):
    """What a certificate calls a host: its address, its name, or "/" and the name that it has in a directory."""
    if host.startswith("/"):
        return x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[1:])]))
    return x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
