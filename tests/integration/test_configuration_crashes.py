"""Configuration and cleanup killed at every step, by processes that really die: the original is
never lost.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.host_trees import (
    MADE,
    Make,
    described,
    dies,
    fresh,
    inner,
    is_whole,
    nothing,
    quick,
    rich,
    steps,
    without_time,
    works,
)

pytestmark = pytest.mark.timeout(300)  # a thousand processes


@MADE
def test_configuration_may_die_at_any_step(seen: Path, make: Make) -> None:
    """Killed at each step and run again, configuration ends as without; cleanup then gives the
    original back.
    """
    root, before = fresh(seen, make)
    configuration, cleanup = works(root)
    total = steps(configuration)
    configured = without_time(described(seen))
    cleanup(quick())
    for number in range(total):
        assert dies(configuration, number)
        is_whole(root)
        configuration(quick())
        assert without_time(described(seen)) == configured, number
        cleanup(quick())
        assert inner(described(seen), root) == inner(before, root), number


@MADE
def test_cleanup_after_a_configuration_that_died_gives_the_original_back(
    seen: Path, make: Make
) -> None:
    """Cleanup alone removes all remains of a killed configuration."""
    root, before = fresh(seen, make)
    configuration, cleanup = works(root)
    number = 0
    while dies(configuration, number):
        cleanup(quick())
        assert inner(described(seen), root) == inner(before, root), number
        number += 1
    assert number > 5


@MADE
def test_cleanup_may_die_at_any_step(seen: Path, make: Make) -> None:
    """Killed at each step and run again, cleanup gives the original back; so it does after
    configuration once more.
    """
    root, before = fresh(seen, make)
    configuration, cleanup = works(root)
    configuration(quick())
    number = 0
    while dies(cleanup, number):
        is_whole(root)
        if number % 2:
            configuration(quick())
        cleanup(quick())
        assert inner(described(seen), root) == inner(before, root), number
        configuration(quick())
        number += 1
    assert number > 5


@settings(max_examples=15, deadline=None)
@given(runs=st.lists(st.tuples(st.booleans(), st.integers(0, 120)), max_size=6))
def test_any_sequence_of_runs_that_died_is_undone(
    tmp_path_factory: pytest.TempPathFactory, runs: Any
) -> None:
    """After any runs of either command, each killed somewhere or not, one whole cleanup gives the
    original back.
    """
    seen = tmp_path_factory.mktemp("runs")
    root, before = fresh(seen, rich)
    both = works(root)
    for is_cleanup, number in runs:
        dies(both[is_cleanup], number)
    both[1](quick())
    assert inner(described(seen), root) == inner(before, root)


def edit(root: Path) -> bytes:
    """Change a file of configuration's by hand; returns the file's new content."""
    file = root / "quay.io" / "hosts.toml"
    file.write_text(f"# by hand\n{file.read_text()}")
    return file.read_bytes()


def copied(root: Path) -> list[bytes]:
    """Return the files in the copies of what was changed by hand."""
    return [path.read_bytes() for path in root.glob("_spegel-py.edited/quay.io.*/hosts.toml")]


@MADE
@pytest.mark.parametrize("is_cleanup", [False, True], ids=["configuration", "cleanup"])
def test_a_change_by_hand_outlives_a_run_that_dies(
    seen: Path, make: Make, is_cleanup: bool
) -> None:
    """Killed at each step and run again, either command has the change in a copy, once."""
    root, before = fresh(seen, make)
    configuration, cleanup = works(root)
    work = cleanup if is_cleanup else configuration
    number = 0
    while True:
        configuration(quick())
        configured = (root / "quay.io" / "hosts.toml").read_bytes()
        edited = edit(root)
        has_died = dies(work, number)
        work(quick())
        assert copied(root) == [edited], number
        if not is_cleanup:
            assert (root / "quay.io" / "hosts.toml").read_bytes() == configured
        cleanup(quick())
        assert copied(root) == [edited], number
        shutil.rmtree(root / "_spegel-py.edited")
        if not has_died:
            break
        if make is nothing:
            shutil.rmtree(seen / "etc")
        number += 1
    assert number > 5
    after, wanted = inner(described(seen), root), inner(before, root)
    if make is not nothing:
        assert without_times_of(after, root) == without_times_of(wanted, root)


def without_times_of(tree: dict[str, Any], root: Path) -> dict[str, Any]:
    """Leave out the time of the root itself, from which this test removes the copies."""
    name = str(Path("etc", "containerd", root.name))
    return {
        path: (*about[:3], about[-1]) if path == name else about for path, about in tree.items()
    }
