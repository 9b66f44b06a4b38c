"""The file with the cluster's keys: its text, its faults, and its changes while a node runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.errors import ConfigError
from spegel_py.routing.cluster_keys import (
    MOST_BYTES,
    MOST_KEYS,
    ClusterKey,
    KeyFile,
    MalformedKeys,
    parse,
    read,
)

OLD, NEW = "11" * 32, "22" * 32
SWARM_KEY = f"/key/swarm/psk/1.0.0/\n/base16/\n{OLD}\n"


def _written(folder: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def test_each_line_is_a_key_and_the_first_one_is_used() -> None:
    found = parse(f"# made in March\n{NEW.upper()}\n\n  {OLD}  \n{OLD}\n")
    assert [key.secret.hex() for key in found] == [NEW, OLD]


def test_a_swarm_key_file_is_one_key() -> None:
    assert parse(SWARM_KEY) == (ClusterKey(bytes.fromhex(OLD)),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no key"),
        ("# only a comment\n", "no key"),
        ("ab" * 31, "line 1 has 62 characters; a key has 64"),
        (f"{OLD}\n{'ab' * 33}", "line 2 has 66 characters"),
        ("xy" * 32, "line 1 has characters that are no hexadecimal digits"),
        ("a" * 63, "line 1 has characters that are no hexadecimal digits, or an odd number"),
        ("00" * 32, "line 1 has only zeros"),
        (f"/key/swarm/psk/1.0.0/\n/base64/\n{OLD}", "line 2 has an unknown encoding"),
        ("\n".join(f"{n:02x}" * 32 for n in range(1, MOST_KEYS + 2)), "it has 5 keys"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(MalformedKeys, match=message):
        parse(text)


@given(st.text(max_size=300))
def test_no_text_ends_in_another_error(text: str) -> None:
    with suppress(MalformedKeys):
        assert parse(text)


def test_no_secret_is_ever_shown() -> None:
    key = ClusterKey(bytes.fromhex(OLD))
    assert OLD[:8] not in repr(key)
    assert key.fingerprint != OLD[:8]
    assert key.fingerprint == ClusterKey(bytes.fromhex(OLD)).fingerprint
    assert key.fingerprint != ClusterKey(bytes.fromhex(NEW)).fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "is no text"),
        (b"a" * (MOST_BYTES + 1), "has more than 4096 bytes"),
        (b"short", "no hexadecimal digits"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = _written(tmp_path, content)
    with pytest.raises(ConfigError, match=message) as raised:
        read(path)
    assert str(raised.value).startswith(f"--cluster-keys: {path}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--cluster-keys: .*/keys: No such file"):
        read(tmp_path / "keys")


async def test_changed_keys_are_handed_on_once(tmp_path: Path) -> None:
    file, told = KeyFile(_written(tmp_path, OLD)), []

    async def changed(keys: Sequence[ClusterKey]) -> None:
        told.append([key.secret.hex() for key in keys])

    file.changed = changed
    await file.look()
    assert told == []
    _written(tmp_path, f"{NEW}\n{OLD}")
    await file.look()
    await file.look()
    assert told == [[NEW, OLD]]
    assert [key.secret.hex() for key in file.keys] == [NEW, OLD]


@pytest.mark.parametrize("content", [None, "", "broken"])
async def test_a_fault_keeps_the_keys_of_before_until_it_is_over(
    tmp_path: Path, content: str | None
) -> None:
    path = _written(tmp_path, OLD)
    file = KeyFile(path)
    if content is None:
        path.unlink()
    else:
        _written(tmp_path, content)
    await file.look()
    assert file.fault
    assert [key.secret.hex() for key in file.keys] == [OLD]
    _written(tmp_path, NEW)
    await file.look()
    assert not file.fault
    assert [key.secret.hex() for key in file.keys] == [NEW]
