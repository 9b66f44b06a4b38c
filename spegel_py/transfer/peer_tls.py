"""TLS between the registries of nodes: the folder of certificates, watched while a node runs.

The folder has `ca.crt`, `tls.crt` and `tls.key`, as a Secret of cert-manager does. Both ends of a
connection verify each other's certificate against `ca.crt`. Names in certificates are not compared
with addresses: a node is known by its proofs (see `routing.peer_proofs`), and not by its address.

Contents are tried before they are used: both sides of a handshake are done in memory. So whatever
peers would refuse is found here, with its reason.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import structlog

from spegel_py.errors import ConfigError, PeerUnencrypted
from spegel_py.routing.base import Peer
from spegel_py.tools.files import is_public
from spegel_py.tools.secret_file import SecretFile

log = structlog.get_logger(__name__)


class TlsMode(StrEnum):
    """How TLS is used; with `accept` peers without TLS are asked and answered too."""

    OFF = "off"
    ACCEPT = "accept"
    REQUIRE = "require"


CA, CERTIFICATE, KEY = "ca.crt", "tls.crt", "tls.key"
MOST_BYTES = 256 * 1024
"""Bytes of a file; a chain of certificates has a few thousand."""
WARN_BEFORE = 7 * 24 * 3600
"""Seconds before the end of a certificate from which a node warns."""
WARN_SHARE = 1 / 6
"""Share of the lifetime that is left then, for certificates that live for less than six weeks:
cert-manager renews with a third left."""


@dataclass(frozen=True, slots=True)
class PeerCertificates:
    """A usable content of the folder.

    Args:
        source: a hash of the files.
        server, client: the contexts of new connections from peers, and to peers.
        fingerprint: eight hexadecimal digits of the certificate's SHA-256.
        expires: Unix time at which the certificate ends, or the last one of its authorities.
        late: Unix time from which it should have been renewed.
    """

    source: bytes
    server: ssl.SSLContext = field(compare=False, repr=False)
    client: ssl.SSLContext = field(compare=False, repr=False)
    fingerprint: str = field(compare=False)
    expires: float = field(compare=False)
    late: float = field(compare=False)


class PeerTls(SecretFile[PeerCertificates]):
    """The certificates of a running node, and how they are used.

    Raises ConfigError if the folder cannot be used at the start.
    """

    def __init__(self, folder: Path, *, mode: TlsMode) -> None:
        self.mode = mode
        self._warned = ""
        super().__init__(
            folder,
            name="certificates of peers",
            parts="certificates",
            read=CertificateReader(),
            fingerprints=lambda content: [content.fingerprint],
        )
        log.info(
            "TLS between peers is on; threads encrypt, not the kernel",
            file=str(folder),
            mode=mode.value,
            certificate=self.content.fingerprint,
            expires=_date(self.content.expires),
        )
        self._warn()

    @property
    def is_required(self) -> bool:
        """True if peers without TLS are neither asked nor answered."""
        return self.mode is TlsMode.REQUIRE

    def server_context(self) -> ssl.SSLContext:
        """Return the context of a connection that comes from a peer."""
        return self.content.server

    def client_context(self, peer: Peer) -> ssl.SSLContext | None:
        """Return the context of a connection to a peer; None for one without TLS.

        Raises PeerUnencrypted.
        """
        if peer.has_tls:
            return self.content.client
        if self.is_required:
            raise PeerUnencrypted("the peer has no TLS, and --peer-tls-mode=require")
        return None

    async def look(self) -> None:
        await super().look()
        self._warn()

    def describe(self) -> Mapping[str, object]:
        times = {"expires": self.content.expires, "late": self.content.late}
        return {**super().describe(), "mode": self.mode.value, **times}

    @property
    def _remedy(self) -> str:
        return f"chmod 600 {self._path / KEY}"

    def _warn(self) -> None:
        """Log once for each certificate that it ends soon."""
        content = self.content
        if time.time() >= content.late and self._warned != content.fingerprint:
            self._warned = content.fingerprint
            log.warning(
                "certificate expires soon",
                file=str(self._path / CERTIFICATE),
                expires=_date(content.expires),
                remedy="renew it, and replace the files; they are read again",
            )


class CertificateReader:
    """Reads a folder; files that are as they were are not tried again."""

    def __init__(self) -> None:
        self._last: PeerCertificates | None = None

    def __call__(self, folder: Path) -> tuple[PeerCertificates, bool]:
        """Return the content, and whether every user can read the key. Raises ConfigError."""
        files = {name: _read(folder / name) for name in (CA, CERTIFICATE, KEY)}
        source = hashlib.sha256(b"\0".join(files.values())).digest()
        last = self._last
        if last is None or last.source != source or time.time() >= last.expires:
            self._last = None
            self._last = last = _tried(folder, files, source)
        return last, is_public(folder / KEY)


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"--peer-tls: {file}: {error.strerror}") from None
    if len(data) > MOST_BYTES:
        raise ConfigError(f"--peer-tls: {file} has more than {MOST_BYTES} bytes")
    if not data.strip():
        raise ConfigError(f"--peer-tls: {file} is empty")
    return data


def _tried(folder: Path, files: Mapping[str, bytes], source: bytes) -> PeerCertificates:
    """Return the content if a handshake with itself works. Raises ConfigError."""
    authorities = _parsed(folder / CA, files[CA])
    own = _parsed(folder / CERTIFICATE, files[CERTIFICATE])[0]
    _check_time(folder / CERTIFICATE, [own])
    _check_time(folder / CA, authorities)
    contexts = []
    for side in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(side)
        context.check_hostname, context.verify_mode = False, ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # ca.crt may be an intermediate
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
        context.load_verify_locations(cadata=files[CA].decode(errors="replace"))
        _load_key(context, folder, files)
        contexts.append(context)
    server, client = contexts
    server.num_tickets = 0  # an idle connection with input would be taken for one that ended
    try:
        _shake_hands(server, client)
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or str(error)
        raise ConfigError(
            f"--peer-tls: {folder / CERTIFICATE} would be refused by peers with this {CA}: "
            f"{reason}{_advice(reason)}"
        ) from None
    expires = min(own.until, max(each.until for each in authorities))
    return PeerCertificates(
        source=source,
        server=server,
        client=client,
        fingerprint=own.fingerprint[:8],
        expires=expires,
        late=expires - min(WARN_BEFORE, WARN_SHARE * (expires - own.since)),
    )


@dataclass(frozen=True, slots=True)
class _Certificate:
    since: float
    until: float
    fingerprint: str


def _parsed(file: Path, data: bytes) -> list[_Certificate]:
    """Return the certificates of a file, at least one. Raises ConfigError."""
    from cryptography import x509  # only nodes with TLS need it
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        found = x509.load_pem_x509_certificates(data)
    except ValueError:
        raise ConfigError(f"--peer-tls: {file} has no certificate in PEM format") from None
    return [
        _Certificate(
            each.not_valid_before_utc.timestamp(),
            each.not_valid_after_utc.timestamp(),
            each.fingerprint(SHA256()).hex(),
        )
        for each in found
    ]


def _check_time(file: Path, certificates: Sequence[_Certificate]) -> None:
    """Raise ConfigError if none of these certificates is valid now."""
    now = time.time()
    if any(each.since <= now < each.until for each in certificates):
        return
    latest = max(certificates, key=lambda each: each.until)
    if latest.until <= now:
        raise ConfigError(f"--peer-tls: {file} expired on {_date(latest.until)}; renew it")
    raise ConfigError(
        f"--peer-tls: {file} is not valid before {_date(latest.since)}; see this machine's clock"
    )


def _load_key(context: ssl.SSLContext, folder: Path, files: Mapping[str, bytes]) -> None:
    """Load the certificate with its key, from the bytes that were read. Raises ConfigError."""
    try:
        with _in_memory(files[CERTIFICATE]) as certificate, _in_memory(files[KEY]) as key:
            context.load_cert_chain(certificate, key, password=_no_password)
    except _Encrypted:
        raise ConfigError(
            f"--peer-tls: {folder / KEY} is encrypted; write it without a password"
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"{folder / KEY} is not the key of {CERTIFICATE}"
        else:
            text = f"{folder / KEY} has no private key in PEM format"
        raise ConfigError(f"--peer-tls: {text}") from None


@contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """Give the path of a file with these bytes: the module takes nothing else."""
    fd = os.memfd_create("peer-tls")
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(data)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


class _Encrypted(Exception):
    """The key has a password."""


def _no_password() -> str:
    raise _Encrypted


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Do a handshake between the contexts in memory. Raises ssl.SSLError."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True)]
    for end in ends * 3:
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()


def _advice(reason: str) -> str:
    return "; it needs server auth and client auth" if "purpose" in reason else ""


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
