"""The folder of certificates: whatever peers would refuse is found before it is used."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from structlog.testing import capture_logs

from spegel_py.errors import ConfigError, PeerUnencrypted
from spegel_py.routing.base import Peer
from spegel_py.transfer.peer_tls import CertificateReader, PeerTls, TlsMode
from tests.support.certificates import HOUR, Authority

DAYS = timedelta(days=30)
PEER, CLEAR = Peer("a", "10.0.0.1", 5000, has_tls=True), Peer("b", "10.0.0.2", 5000)


@pytest.fixture
def authority() -> Authority:
    return Authority(lasts=DAYS)


@pytest.fixture
def folder(tmp_path: Path, authority: Authority) -> Path:
    return authority.write(tmp_path / "tls", lasts=DAYS)


def test_a_good_folder_gives_contexts_for_both_sides(folder: Path) -> None:
    tls = PeerTls(folder, mode=TlsMode.REQUIRE)
    assert tls.client_context(PEER) is tls.content.client
    for context in (tls.server_context(), tls.content.client):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert tls.faults() == {}
    described = tls.describe()
    assert described["mode"] == "require"
    assert described["certificates"] == [tls.content.fingerprint]
    assert described["expires"] == tls.content.expires
    assert described["late"] == tls.content.late


def test_a_peer_without_tls_is_asked_only_with_accept(folder: Path) -> None:
    assert PeerTls(folder, mode=TlsMode.ACCEPT).client_context(CLEAR) is None
    with pytest.raises(PeerUnencrypted, match="--peer-tls-mode=require"):
        PeerTls(folder, mode=TlsMode.REQUIRE).client_context(CLEAR)


def _without(name: str) -> Callable[[Path, Authority], object]:
    return lambda folder, _: (folder / name).unlink()


def _with(name: str, content: bytes) -> Callable[[Path, Authority], object]:
    return lambda folder, _: (folder / name).write_bytes(content)


def _encrypted(folder: Path, authority: Authority) -> None:
    key = serialization.load_pem_private_key((folder / "tls.key").read_bytes(), None)
    (folder / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without("ca.crt"), r"/ca.crt: No such file"),
        (_without("tls.crt"), r"/tls.crt: No such file"),
        (_without("tls.key"), r"/tls.key: No such file"),
        (_with("tls.crt", b" \n"), r"/tls.crt is empty"),
        (_with("ca.crt", b"x" * 300_000), r"/ca.crt has more than 262144 bytes"),
        (_with("ca.crt", b"no certificate"), r"/ca.crt has no certificate in PEM format"),
        (_with("tls.crt", b"\xff\x00"), r"/tls.crt has no certificate in PEM format"),
        (_with("tls.key", b"no key"), r"/tls.key has no private key in PEM format"),
        (_with("tls.key", Authority().issue()[1]), r"/tls.key is not the key of tls.crt"),
        (_encrypted, r"/tls.key is encrypted; write it without a password"),
        (
            lambda folder, authority: authority.write(folder, since=-2 * HOUR, lasts=HOUR),
            r"/tls.crt expired on 20\d\d-\d\d-\d\d \d\d:\d\d UTC; renew it",
        ),
        (
            lambda folder, authority: authority.write(folder, since=HOUR),
            r"/tls.crt is not valid before .*; see this machine's clock",
        ),
        (
            lambda folder, authority: authority.write(folder, trusted=(Authority(),)),
            r"/tls.crt would be refused by peers with this ca.crt: ",
        ),
        (
            lambda folder, authority: authority.write(
                folder, usages=(ExtendedKeyUsageOID.SERVER_AUTH,)
            ),
            r"unsuit.*purpose; it needs server auth and client auth",
        ),
        (
            lambda folder, _: Authority(since=-3 * HOUR, lasts=HOUR).write(folder),
            r"/ca.crt expired on",
        ),
    ],
    ids=[
        "no authority",
        "no certificate",
        "no key",
        "empty",
        "long",
        "authority malformed",
        "certificate malformed",
        "key malformed",
        "another key",
        "key encrypted",
        "expired",
        "not yet valid",
        "another authority",
        "for servers only",
        "authority expired",
    ],
)
async def test_a_bad_folder_is_one_line_at_the_start_and_a_fault_later(
    folder: Path, authority: Authority, spoil: Callable[[Path, Authority], object], message: str
) -> None:
    """While the node runs, the certificates of before stay in use until the folder is mended."""
    tls = PeerTls(folder, mode=TlsMode.REQUIRE)
    before = tls.content
    spoil(folder, authority)
    with pytest.raises(ConfigError, match=message) as raised:
        PeerTls(folder, mode=TlsMode.REQUIRE)
    assert re.fullmatch(rf"--peer-tls: {folder}/.*", str(raised.value))  # one line
    await tls.look()
    assert tls.content is before
    assert list(tls.faults()) == [str(folder)]
    authority.write(folder, lasts=DAYS)
    with capture_logs() as logs:
        await tls.look()
    assert [each["event"] for each in logs] == ["secret file readable again", "secret file changed"]
    assert tls.faults() == {}
    assert tls.content.client is not before.client


async def test_files_that_did_not_change_are_not_tried_again(folder: Path) -> None:
    tls = PeerTls(folder, mode=TlsMode.ACCEPT)
    before = tls.content
    await tls.look()
    assert tls.content is before


def test_a_certificate_in_use_that_ends_is_a_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = CertificateReader()
    content, _ = read(folder)
    monkeypatch.setattr("spegel_py.transfer.peer_tls.time.time", lambda: content.expires)
    with pytest.raises(ConfigError, match=r"/ca.crt expired|/tls.crt expired"):
        read(folder)


def test_authorities_are_replaced_with_both_in_the_file(
    tmp_path: Path, authority: Authority
) -> None:
    """Old and new certificates know each other while `ca.crt` has both authorities."""
    new = Authority(name="new")
    read = CertificateReader()
    read(authority.write(tmp_path / "a", trusted=(authority, new)))
    read(new.write(tmp_path / "a", trusted=(authority, new)))


@pytest.mark.parametrize(
    ("lived", "left", "is_late"),
    [
        (timedelta(days=80), timedelta(days=8), False),
        (timedelta(days=80), timedelta(days=6), True),
        (timedelta(days=2), timedelta(days=1), False),
        (timedelta(days=10), timedelta(days=1), True),
    ],
)
def test_a_certificate_is_late_a_week_ahead_or_with_a_sixth_left(
    tmp_path: Path, lived: timedelta, left: timedelta, is_late: bool
) -> None:
    folder = Authority(lasts=10 * DAYS).write(tmp_path, since=-lived, lasts=lived + left)
    content, _ = CertificateReader()(folder)
    assert (time.time() >= content.late) is is_late


async def test_a_certificate_that_is_late_is_logged_once(tmp_path: Path) -> None:
    authority = Authority(lasts=DAYS)
    with capture_logs() as logs:
        old = authority.write(tmp_path, since=-DAYS, lasts=DAYS + timedelta(days=4))
        tls = PeerTls(old, mode=TlsMode.ACCEPT)
        await tls.look()
        authority.write(tmp_path, lasts=DAYS)
        await tls.look()
    assert [each["event"] for each in logs].count("certificate expires soon") == 1
    assert tls.faults() == {}


async def test_a_key_that_everybody_can_read_is_a_fault(folder: Path) -> None:
    (folder / "tls.key").chmod(0o644)
    tls = PeerTls(folder, mode=TlsMode.ACCEPT)
    assert tls.faults() == {str(folder): f"every user can read it: chmod 600 {folder}/tls.key"}
