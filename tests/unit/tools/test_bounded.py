"""A mapping of bounded size."""

from __future__ import annotations

from spegel_py.tools.bounded import BoundedDict


def test_the_entries_set_last_are_kept() -> None:
    """Setting an entry again makes it the youngest; reading it does not."""
    kept: BoundedDict[str, int] = BoundedDict(limit=2)
    kept["a"] = 1
    kept["b"] = 2
    kept["a"] = 3
    assert kept["b"] == 2
    kept["c"] = 4
    assert dict(kept) == {"a": 3, "c": 4}
    kept.setdefault("d", 5)
    assert dict(kept) == {"c": 4, "d": 5}
