"""Judges the content path: that it can be read, and is the folder of the containerd that is asked. Pure."""

from __future__ import annotations

from spegel_py.host.doctor.facts import Content, Facts, Unknown
from spegel_py.host.doctor.finding import Finding, error, ok, warning

CHECK = "content_path"


def check_content(facts: Facts) -> list[Finding]:
    """The content path is readable, and this containerd's."""
    path = facts.subject.content_path
    match facts.content:
        case None:
            return []
        case Unknown(reason, _):
            return [error(CHECK, f"{path}: {reason}", "see that the disk answers, or set it empty")]
        case found if path is None:
            return [ok(CHECK, "not mounted: blobs are read through containerd's socket")]
        case found if found.problem:
            return [error(CHECK, found.problem, _remedy(found))]
        case found:
            return [_finding(facts, found)]


def _finding(facts: Facts, found: Content) -> Finding:
    path = facts.subject.content_path
    if found.sample is None:
        return warning(
            CHECK,
            f"{path} can be read, but whose it is cannot be told",
            "see what is said of containerd",
        )
    if found.sample == 0:
        namespace = facts.subject.namespace
        return ok(
            CHECK, f"{path} can be read; containerd holds nothing in namespace {namespace} yet"
        )
    if found.found == 0:
        return error(
            CHECK,
            f"{path} holds none of {found.sample} blobs that containerd lists",
            _remedy(found),
        )
    return ok(CHECK, f"{path} holds what containerd lists")


def _remedy(found: Content) -> str:
    if found.root is None or found.advice.startswith("run as root"):
        return found.advice or "see what is said of containerd"
    return f"--containerd-content-path {found.root} (as the machine sees it), or empty to read through the socket"
