"""When memory is given back: after it has grown, and once it is at rest."""

from __future__ import annotations

import asyncio
import ctypes
import gc

import pytest

from spegel_py.tools.memory_trim import GROWN, STILL, MemoryTrimmer, own_memory, trim_memory

MIB = 1024 * 1024


async def looks(*sizes: int, in_use: int = 0) -> list[int]:
    """Return the numbers of the looks that trimmed; a trim leaves `in_use` bytes."""
    memory, found = [0], []
    trimmer = MemoryTrimmer(read=lambda: memory[-1], trim=lambda: memory.append(in_use))
    for number, size in enumerate(sizes):
        memory.append(size)
        before = len(memory)
        await trimmer.look()
        if len(memory) > before:
            found.append(number)
    return found


async def test_memory_that_has_grown_is_trimmed_at_rest() -> None:
    """Not while it still grows: the burst is not over."""
    assert await looks(10 * GROWN, 20 * GROWN, 20 * GROWN + STILL, in_use=5 * GROWN) == [2]


async def test_memory_in_use_is_trimmed_once() -> None:
    assert await looks(9 * MIB, 9 * MIB, 9 * MIB, 9 * MIB, in_use=9 * MIB) == [1]


async def test_little_growth_is_left_alone() -> None:
    assert await looks(MIB, MIB, GROWN - 1, GROWN - 1) == []


async def test_what_was_freed_between_small_objects_goes_back_to_the_system() -> None:
    """Of 64 MB in pieces, every tenth piece of which stays, most is given back."""
    pieces = [bytearray(32 * 1024) for _ in range(2000)]
    kept = pieces[::10]
    pieces.clear()
    gc.collect()
    before = own_memory()
    await asyncio.to_thread(trim_memory)
    assert before - own_memory() > 20 * MIB
    assert len(kept) == 200


def test_a_c_library_without_trimming_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As musl is."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    trim_memory()
