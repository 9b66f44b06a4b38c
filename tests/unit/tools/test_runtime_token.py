"""The runtime's token file: two tokens are accepted, and a fault never ends what worked before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from spegel_py.errors import ConfigError
from spegel_py.tools.runtime_token import (
    TokenFile,
    fingerprint,
    known_tokens,
    new_token,
    read_tokens,
    write_tokens,
)

FIRST, SECOND, THIRD = (digit * 64 for digit in "abc")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "runtime-token"


def test_a_file_has_the_newest_two_tokens_and_is_private(path: Path) -> None:
    write_tokens(path, (THIRD, SECOND, FIRST))
    assert read_tokens(path) == (THIRD, SECOND)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    write_tokens(path, ())
    assert not path.exists()
    write_tokens(path, ())


@pytest.mark.root
def test_a_file_belongs_to_the_owner_of_its_folder(path: Path) -> None:
    """`configuration` runs as root, and the node may not."""
    path.parent.mkdir()
    os.chown(path.parent, 1234, 1234)
    write_tokens(path, (FIRST,))
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (1234, 0o600)


@pytest.mark.parametrize(
    "content",
    ["", "short", f"{FIRST}\n{SECOND}\n{THIRD}", FIRST.upper(), f"{FIRST}x", "\0" * 4000, "\udcff"],
    ids=["empty", "short", "three", "upper", "long", "zeros", "no text"],
)
def test_another_file_is_no_token_file(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(ConfigError, match=r"is no token file; .* writes one"):
        read_tokens(path)
    assert known_tokens(path) == ()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^--runtime-token: .* cannot be written: File exists"):
        write_tokens(tmp_path / "file" / "token", (FIRST,))


def test_tokens_are_random_and_fingerprints_do_not_show_them() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(each) == 64 and fingerprint(each) not in each for each in tokens)


async def test_the_last_two_tokens_and_the_own_one_are_accepted(path: Path) -> None:
    write_tokens(path, (SECOND, FIRST))
    file = TokenFile(path)
    assert [await file.accept(each) for each in (FIRST, SECOND, file.own)] == [True] * 3
    for wrong in ("", THIRD, "é", "\udce9", SECOND[:-1], f"{SECOND} "):
        assert not await file.accept(wrong)


async def test_a_new_token_is_known_from_its_first_request_on(path: Path) -> None:
    """`configuration` may write it while the node runs."""
    write_tokens(path, (FIRST,))
    file = TokenFile(path)
    write_tokens(path, (SECOND, FIRST))
    assert await file.accept(SECOND)
    assert await file.accept(FIRST)
    write_tokens(path, (THIRD, SECOND))
    assert await file.accept(THIRD)
    assert not await file.accept(FIRST)


async def test_a_fault_keeps_the_tokens_of_before_and_is_logged_once(path: Path) -> None:
    write_tokens(path, (FIRST,))
    file = TokenFile(path)
    with capture_logs() as logs:
        path.unlink()
        await file.look()
        await file.look()
        path.write_text("nothing")
        await file.look()
        assert await file.accept(FIRST)
        assert "is no token file" in file.fault
        write_tokens(path, (FIRST,))
        await file.look()
    assert file.fault == ""
    assert [each["log_level"] for each in logs] == ["error", "error", "info"]
    assert FIRST not in repr(logs) + repr(file)


async def test_a_node_starts_without_its_file_and_says_what_writes_it(path: Path) -> None:
    file = TokenFile(path)
    assert f"spegel-py configuration --runtime-token {path}" in file.fault
    assert not await file.accept(FIRST)
    assert await file.accept(file.own)
    write_tokens(path, (FIRST,))
    assert await file.accept(FIRST)
    assert file.describe() == {
        "file": str(path),
        "tokens": [fingerprint(FIRST)],
        "fault": "",
        "public": False,
    }


async def test_a_file_that_everybody_can_read_is_reported_once(path: Path) -> None:
    write_tokens(path, (FIRST,))
    path.chmod(0o644)
    with capture_logs() as logs:
        file = TokenFile(path)
        await file.look()
    warnings = [each for each in logs if each["log_level"] == "warning"]
    assert [each["remedy"] for each in warnings] == [f"chmod 600 {path}"]
    assert file.describe()["public"]
