"""The limit of open files and sockets of this process."""

from __future__ import annotations

import resource

MOST = 1 << 20
"""Descriptors, enough for any node: container runtimes set hard limits of a billion."""


def raise_limit() -> int:
    """Raise the soft limit of open descriptors to the hard one, and return the limit in force.

    Shells and container runtimes often start a process with a soft limit of 1,024. It protects
    programs that use select(2), which no part of a node does.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):  # a sandbox may forbid it
            return soft
        return wanted
    return MOST if soft == resource.RLIM_INFINITY else soft
