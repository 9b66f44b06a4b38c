"""The form of a zone's name: that of a label's value in Kubernetes."""

from __future__ import annotations

import re

_VALID = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def is_zone(text: str) -> bool:
    """Return True for the name of a zone, as in `topology.kubernetes.io/zone`."""
    return _VALID.fullmatch(text) is not None
