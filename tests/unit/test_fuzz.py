"""What fuzzing found is not found again, and fuzzing finds what is there."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.fuzz import worker
from tests.fuzz.__main__ import markdown
from tests.fuzz.target import CORPUS, Crash, Target, attempt, target
from tests.fuzz.targets import ALL


@pytest.mark.parametrize("tried", ALL, ids=lambda tried: tried.name)
def test_inputs_that_are_kept(tried: Target) -> None:
    """No input that was once a crash is one any more, and no example is refused."""
    with tried.open() as check:
        for data in tried.examples:
            check(data)  # what is made of one that is refused would be refused for the same reason
        for path in tried.corpus():
            crash = attempt(tried, check, path.read_bytes())
            assert crash is None, f"{path.name}: {crash.kind}\n{crash.text}"


def test_every_folder_of_the_corpus_belongs_to_a_target() -> None:
    """A target that is renamed takes its inputs with it."""
    assert {path.name for path in CORPUS.iterdir()} <= {tried.name for tried in ALL}
    assert len({tried.name for tried in ALL}) == len(ALL)


@target("frail", examples=(b"abc",), refuses=(ValueError,), slow=0.05)
def frail(data: bytes) -> None:
    """A parser with a fault of each kind."""
    if b"x" in data:
        raise KeyError("x")
    if b"y" in data:
        raise ValueError("y is refused")
    if b"z" in data:
        end = time.process_time() + 0.06
        while time.process_time() < end:
            pass
    assert b"w" not in data


def test_what_a_crash_is() -> None:
    """An error that is not documented, a wrong result, and an input that takes too long; not a
    refusal.
    """
    with frail.open() as check:
        found = [attempt(frail, check, data) for data in (b"a", b"y", b"x", b"w", b"z")]
    kinds = [crash and crash.kind.partition(" ")[0] for crash in found]
    assert kinds == [None, None, "KeyError", "AssertionError", "slow"]


def test_a_crash_is_made_small() -> None:
    """Of a long input what matters is left, so that a person sees the cause."""
    with frail.open() as check:
        crash = attempt(frail, check, b"a" * 500 + b"x" + b"a" * 500)
        assert crash is not None
        assert worker.shrunk(frail, check, crash).data == b"x"


def test_a_crash_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is replayed from then on."""
    monkeypatch.setattr(worker, "CORPUS", tmp_path)
    path = worker.keep("frail", Crash(b"x", "KeyError at tests/unit/test_fuzz.py:52", ""))
    assert path.read_bytes() == b"x"
    assert path.parent == tmp_path / "frail"


def test_the_table() -> None:
    """It says of each target for how long it was fuzzed, with how many inputs, and how many crashes
    there are.
    """
    outcome = worker.Outcome("frail", inputs=1234, seconds=10.2, cpu=5.0)
    outcome.add(Crash(b"xa", "KeyError", ""))
    outcome.add(Crash(b"x", "KeyError", ""))
    outcome.add(Crash(b"xb", "KeyError", ""))
    assert outcome.crashes["KeyError"].data == b"x"
    assert "| frail | 10 | 5 | 1,234 | 1 |" in markdown([outcome], 7)
