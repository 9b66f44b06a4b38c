"""Certificates as cert-manager makes them: an authority, and folders of what it issued."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from spegel_py.tools.files import replace_file

BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
HOUR = timedelta(hours=1)


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class Authority:
    """Issues certificates."""

    name: str = "authority"
    since: timedelta = -HOUR
    lasts: timedelta = 24 * HOUR
    key: ec.EllipticCurvePrivateKey = field(default_factory=_new_key)

    def __post_init__(self) -> None:
        key_usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        self.certificate = (
            self._builder(self.name, self.key.public_key(), self.since, self.lasts)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(key_usage, critical=True)
            .sign(self.key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        *,
        since: timedelta = -HOUR,
        lasts: timedelta = 12 * HOUR,
        usages: tuple[ObjectIdentifier, ...] = BOTH,
    ) -> tuple[bytes, bytes]:
        """Return a certificate and its key in PEM format; `lasts` counts from `since`."""
        key = _new_key()
        certificate = (
            self._builder("node", key.public_key(), since, lasts)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def write(
        self,
        folder: Path,
        *,
        trusted: tuple[Authority, ...] = (),
        since: timedelta = -HOUR,
        lasts: timedelta = 12 * HOUR,
        usages: tuple[ObjectIdentifier, ...] = BOTH,
    ) -> Path:
        """Write a folder with a new certificate; `trusted` are the authorities in `ca.crt`."""
        folder.mkdir(parents=True, exist_ok=True)
        certificate, key = self.issue(since=since, lasts=lasts, usages=usages)
        replace_file(folder / "ca.crt", b"".join(each.pem for each in trusted or (self,)))
        replace_file(folder / "tls.crt", certificate)
        replace_file(folder / "tls.key", key, mode=0o600)
        return folder

    def _builder(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        since: timedelta,
        lasts: timedelta,
    ) -> x509.CertificateBuilder:
        subject, issuer = (
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, each)])
            for each in (name, self.name)
        )
        begins = datetime.now(UTC) + since
        return x509.CertificateBuilder(
            issuer, subject, key, x509.random_serial_number(), begins, begins + lasts
        )


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts of a server and of a client with the certificate of a folder."""
    found = []
    for side in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(side)
        context.check_hostname, context.verify_mode = False, ssl.CERT_REQUIRED
        context.load_verify_locations(folder / "ca.crt")
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
        found.append(context)
    server, client = found
    server.num_tickets = 0
    return server, client
