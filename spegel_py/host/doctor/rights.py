"""The rights of the user who runs the doctor: who may look, and how."""

from __future__ import annotations

import os
import pwd

from spegel_py.host.doctor.facts import Unknown

AS_ROOT = "run this as root: sudo spegel-py doctor"
"""Remedy for everything that only root may read."""


def user() -> str:
    """Return the present user in words."""
    number = os.geteuid()
    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"user {number}"


def unknown(error: OSError) -> Unknown:
    """Return the reason why a fact could not be read, with the remedy if rights are missing."""
    where = error.filename or "it"
    if isinstance(error, PermissionError):
        return Unknown(f"{where} may not be read by {user()}", AS_ROOT)
    return Unknown(f"{where} cannot be read: {error.strerror or error}")
