"""The times at which blobs are checked that garbage collection may take."""

from __future__ import annotations

import itertools

from spegel_py.oci.digest import Digest
from spegel_py.store.containerd.gc_watch import EAGER, EAGER_FOR, HELD_FOR, LAZY, GCWatch

BLOB = Digest.of(b"blob")


def looks(gc_watch: GCWatch, *, until: float, present: bool, held: bool) -> list[float]:
    """Return the times of all checks, with the same finding each time."""
    times: list[float] = []
    while (due := gc_watch.next_due()) is not None and due <= until:
        times.append(due)
        digests = gc_watch.due(due)
        gc_watch.record_check(
            digests, present=digests if present else (), held=digests if held else (), now=due
        )
    return times


def test_the_first_looks_come_quickly_and_then_keep_a_pace_below_two_seconds() -> None:
    """The loss of a collected blob is found within 2 s, for as long as a busy collector takes."""
    gc_watch = GCWatch()
    gc_watch.begin([BLOB], 0.0)
    times = looks(gc_watch, until=EAGER_FOR, present=True, held=False)
    assert [round(time, 1) for time in times[:5]] == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert (
        max(later - earlier for earlier, later in itertools.pairwise(times)) <= EAGER + 0.001 < 2.0
    )


def test_what_nobody_collects_is_looked_after_lazily_for_ever() -> None:
    """A lease may hold the blob for a day."""
    gc_watch = GCWatch()
    gc_watch.begin([BLOB], 0.0)
    looks(gc_watch, until=EAGER_FOR + 2, present=True, held=False)
    times = looks(gc_watch, until=10_000, present=True, held=False)
    assert len(times) > 100
    assert times[-1] - times[-2] == LAZY


def test_what_is_gone_and_held_by_no_image_is_let_go() -> None:
    """One check is enough."""
    gc_watch = GCWatch()
    gc_watch.begin([BLOB], 0.0)
    assert len(looks(gc_watch, until=100, present=False, held=False)) == 1
    assert gc_watch.next_due() is None


def test_what_an_image_holds_is_looked_after_for_a_minute() -> None:
    """The blob may be here or still to come."""
    for present in (True, False):
        gc_watch = GCWatch()
        gc_watch.begin([BLOB], 0.0)
        assert (
            HELD_FOR
            <= looks(gc_watch, until=1000, present=present, held=True)[-1]
            <= HELD_FOR + EAGER
        )
        assert gc_watch.next_due() is None


def test_beginning_again_is_eager_again() -> None:
    """A second event about the same blob restarts the eager pace."""
    gc_watch = GCWatch()
    gc_watch.begin([BLOB], 0.0)
    looks(gc_watch, until=30, present=True, held=False)
    gc_watch.begin([BLOB], 30.0)
    assert gc_watch.next_due() == 30.1
