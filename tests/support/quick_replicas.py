"""A node that scans its replicas every second: `python -m tests.support.quick_replicas registry`.

It is the real node, save that its scans, its lookups of nodes that drain, the grace of a lost node
and the time for which an image is new are shorter.
"""

from __future__ import annotations

from unittest.mock import patch

from spegel_py import cli

if __name__ == "__main__":
    with (
        patch("spegel_py.replicas.keeper.SCAN", 1.0),
        patch("spegel_py.replicas.image_state_reader.SCAN", 1.0),
        patch("spegel_py.replicas.keep_plan.NEW", 2.0),
        patch("spegel_py.replicas.replica_counts.SHORT_GRACE", 3.0),
        patch("spegel_py.replicas.draining.PEERS", 1.0),
    ):
        raise SystemExit(cli.main())
