"""A node whose images get cold in seconds: `python -m tests.support.quick_heat registry`.

It is the real node, save that its scans, the half-life of a pull, and the time before a surplus
replica is released are shorter.
"""

from __future__ import annotations

from unittest.mock import patch

from spegel_py import cli

if __name__ == "__main__":
    with (
        patch("spegel_py.replicas.keeper.SCAN", 0.5),
        patch("spegel_py.replicas.image_state_reader.SCAN", 0.5),
        patch("spegel_py.replicas.keep_plan.NEW", 1.0),
        patch("spegel_py.replicas.image_heat.HALF_LIFE", 3.0),
        patch("spegel_py.replicas.replica_plan.SURPLUS", 1.0),
    ):
        raise SystemExit(cli.main())
