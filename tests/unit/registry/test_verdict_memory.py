"""Remembered answers of registries: their times, their bounds, and a file without credentials."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import pytest

from spegel_py.oci.digest import Digest
from spegel_py.registry import verdict_memory
from spegel_py.registry.private_rules import KEPT_FOR, AccessOutcome
from spegel_py.registry.verdict_memory import FILE, VerdictMemory

SECRET = "Basic c29tZWJvZHk6czNjcmV0"
REPOSITORY = "r.example/team/app"


class Clock:
    """Both clocks, set by the test."""

    def __init__(self) -> None:
        self.time = 1_700_000_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(folder: Path | None, clock: Clock) -> VerdictMemory:
    return VerdictMemory(folder, clock=clock, now=clock)


async def saved(memory: VerdictMemory) -> None:
    while memory._saving is not None and not memory._saving.done():
        await asyncio.sleep(0.01)


def test_a_verdict_is_for_a_repository_and_credentials(clock: Clock) -> None:
    memory, digest = make(None, clock), Digest.of(b"1")
    access = memory.access(SECRET, REPOSITORY)
    memory.record(access, AccessOutcome.ALLOWED, 600, "1", digest)
    assert memory.find(access, "anything") is AccessOutcome.ALLOWED
    assert (memory.digest(access, "1"), memory.digest(access, "2")) == (digest, None)
    assert memory.find(memory.access(SECRET, "r.example/other"), "1") is None
    assert memory.find(memory.access(SECRET + "x", REPOSITORY), "1") is None
    assert memory.find(memory.access("", REPOSITORY), "1") is None
    clock.time += 600
    assert memory.find(access, "1") is None
    assert memory.digest(access, "1") is None


def test_an_unknown_reference_says_nothing_about_others(clock: Clock) -> None:
    memory = make(None, clock)
    access = memory.access(SECRET, REPOSITORY)
    memory.record(access, AccessOutcome.UNKNOWN, 30, "1")
    assert memory.find(access, "1") is AccessOutcome.UNKNOWN
    assert memory.find(access, "2") is None
    memory.record(access, AccessOutcome.DENIED, 30)
    assert memory.find(access, "2") is AccessOutcome.DENIED


async def test_a_yes_is_kept_for_a_day_over_restarts(tmp_path: Path, clock: Clock) -> None:
    memory = make(tmp_path / "data", clock)
    await memory.keep(SECRET, REPOSITORY)
    memory.record_challenge("r.example", 'Basic realm="r"')
    await saved(memory)
    again = make(tmp_path / "data", clock)
    assert await again.was_allowed(SECRET, REPOSITORY)
    assert not await again.was_allowed(SECRET + "x", REPOSITORY)
    assert not await again.was_allowed(SECRET, "r.example/other")
    clock.time += 3600
    assert again.challenge("r.example") is None
    assert again.challenge("r.example", KEPT_FOR) == 'Basic realm="r"'
    clock.time += 86400 - 3600
    assert not await again.was_allowed(SECRET, REPOSITORY)
    assert again.challenge("r.example", KEPT_FOR) is None


async def test_a_no_ends_a_kept_yes(tmp_path: Path, clock: Clock) -> None:
    memory = make(tmp_path, clock)
    await memory.drop(SECRET, REPOSITORY)
    await memory.keep(SECRET, REPOSITORY)
    await memory.drop(SECRET, REPOSITORY)
    await saved(memory)
    assert not await memory.was_allowed(SECRET, REPOSITORY)
    assert not await make(tmp_path, clock).was_allowed(SECRET, REPOSITORY)


async def test_the_file_holds_no_credentials(tmp_path: Path, clock: Clock) -> None:
    """Neither the header nor what it encodes; and only the node's user reads the hash."""
    memory = make(tmp_path, clock)
    await memory.keep(SECRET, REPOSITORY)
    await saved(memory)
    path = tmp_path / FILE
    text = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for secret in ("c29tZWJvZHk6czNjcmV0", "somebody", "s3cret", REPOSITORY):
        assert secret not in text + repr(memory)
    assert len(json.loads(text)["allowed"]) == 1


async def test_the_file_has_bounds(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(verdict_memory._SCRYPT, "n", 2)
    memory = make(tmp_path, clock)
    for number in range(verdict_memory.MAX_KEPT + 20):
        await memory.keep(SECRET, f"r.example/{number}")
        memory.record_challenge(f"{number}.example", "x" * 2048)
    for number in range(verdict_memory.MAX_VERDICTS + 20):
        memory.record(memory.access(SECRET, str(number)), AccessOutcome.ALLOWED, 600)
    await saved(memory)
    assert (tmp_path / FILE).stat().st_size < verdict_memory.MAX_FILE
    assert len(memory._verdicts) == verdict_memory.MAX_VERDICTS
    again = make(tmp_path, clock)
    assert await again.was_allowed(SECRET, f"r.example/{verdict_memory.MAX_KEPT + 19}")
    assert not await again.was_allowed(SECRET, "r.example/0")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"salt": "00", "allowed": {}, "challenges": {}}',
        b'{"salt": "zz", "allowed": {}, "challenges": {}}',
        b'{"salt": "' + b"00" * 16 + b'", "allowed": {"a": "x"}, "challenges": {}}',
        b'{"salt": "' + b"00" * 16 + b'", "allowed": {}, "challenges": {"a": "b"}}',
        b"[" * 100_000,
    ],
)
async def test_a_malformed_file_counts_as_empty(tmp_path: Path, clock: Clock, data: bytes) -> None:
    (tmp_path / FILE).write_bytes(data)
    memory = make(tmp_path, clock)
    assert not await memory.was_allowed(SECRET, REPOSITORY)
    await memory.keep(SECRET, REPOSITORY)
    await saved(memory)
    assert await make(tmp_path, clock).was_allowed(SECRET, REPOSITORY)


async def test_a_file_from_the_future_allows_nothing(tmp_path: Path, clock: Clock) -> None:
    """The clock was ahead by days: nobody knows when the registry said yes."""
    memory = make(tmp_path, clock)
    await memory.keep(SECRET, REPOSITORY)
    memory.record_challenge("r.example", "Basic")
    clock.time -= 5 * 86400
    assert not await memory.was_allowed(SECRET, REPOSITORY)
    assert memory.challenge("r.example", KEPT_FOR) is None


async def test_a_folder_that_cannot_be_written_ends_nothing(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").write_text("")
    memory = make(tmp_path / "file", clock)
    await memory.keep(SECRET, REPOSITORY)
    await saved(memory)
    assert await memory.was_allowed(SECRET, REPOSITORY)
