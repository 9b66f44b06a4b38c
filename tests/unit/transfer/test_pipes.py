"""Pipes that are given out and come back."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from spegel_py.transfer import pipes
from spegel_py.transfer.pipes import MAX_IDLE_PIPES, Pipe, PipePool


@pytest.fixture
def lender() -> Iterator[PipePool]:
    with closing(PipePool()) as made:
        yield made


def test_an_empty_pipe_is_used_again(lender: PipePool) -> None:
    """Making one costs more than keeping one."""
    with lender.borrow() as one:
        pass
    with lender.borrow() as other:
        assert other is one


def test_a_pipe_with_bytes_in_it_is_closed(lender: PipePool) -> None:
    """The bytes of one transfer must never reach the client of another."""
    with lender.borrow() as one:
        assert one is not None
        one.held = os.write(one.writer, b"left over")
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(one.reader)
    with lender.borrow() as other:
        assert other is not one


def test_no_more_are_kept_than_are_of_use(lender: PipePool) -> None:
    """A crowd of transfers leaves a few pipes behind."""
    with ExitStack() as stack:
        lent = [stack.enter_context(lender.borrow()) for _ in range(MAX_IDLE_PIPES + 5)]
    assert len(set(map(id, lent))) == MAX_IDLE_PIPES + 5
    assert repr(lender) == f"<PipePool idle={MAX_IDLE_PIPES}>"


def test_a_pipe_that_may_not_be_large_is_used_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users other than root get small pipes once they have many. Those work too."""

    def refused(*_: int) -> int:
        raise PermissionError

    monkeypatch.setattr(fcntl, "fcntl", refused)
    with closing(Pipe()) as small:
        assert os.write(small.writer, b"x") == 1


def test_without_descriptors_there_is_none(
    lender: PipePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a pipe the bytes are copied."""

    def refused() -> Pipe:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(pipes, "Pipe", refused)
    with lender.borrow() as one:
        assert one is None
