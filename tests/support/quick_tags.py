"""A node that forgets observers of tags quickly: `python -m tests.support.quick_tags registry`.

It is the real node, save that an observer counts for seconds after it has gone, and that the clocks
of a test's nodes agree.
"""

from __future__ import annotations

from unittest.mock import patch

from spegel_py import cli

if __name__ == "__main__":
    with (
        patch("spegel_py.mirror.tag_trust.GRACE", 4.0),
        patch("spegel_py.mirror.tag_trust.SETTLED_AFTER", 0.0),
        patch("spegel_py.mirror.tag_history.MAX_AHEAD", 1.0),
        patch("spegel_py.mirror.tag_keeper.INTERVAL", 0.5),
    ):
        raise SystemExit(cli.main())
