"""The replicas, and the pre-heat jobs that go on, as the page shows them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MOST_ROWS = 20
"""Images on the page: those with the most missing replicas come first."""

READY = ("done", "here already")
"""States of a node that has the image of a job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRow:
    """An image with its replicas. `since` is the Unix time since which this node keeps it, if it
    does, and `reason` the purpose of that.
    """

    manifest: str
    name: str
    others: int
    size: int
    replicas: int
    target: int | None
    nodes: int
    zones: str
    heat: float
    since: float | None
    reason: str

    @property
    def is_low(self) -> bool:
        return self.target is not None and self.replicas < self.target


def replica_rows(found: Mapping[str, Any], *, most: int = MOST_ROWS) -> list[ReplicaRow]:
    """Return the first images of `/debug/replicas`: those below their targets, then the hottest."""
    rows = [_row(image) for image in found["images"]]
    return sorted(rows, key=lambda row: (not row.is_low, -row.heat, row.name))[:most]


def _row(image: Mapping[str, Any]) -> ReplicaRow:
    names = list(image["names"])
    return ReplicaRow(
        manifest=image["manifest"],
        name=names[0] if names else "",
        others=max(0, len(names) - 1),
        size=image["size"],
        replicas=image["replicas"],
        target=image["target"] if image["selected"] else None,
        nodes=image["holders"],
        zones=", ".join(zone or "none" for zone in image["zones"] if any(image["zones"])),
        heat=image["heat"],
        since=image["kept_since"],
        reason=image["reason"] or "",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A pre-heat job that goes on, with the numbers of its nodes that are ready, and of all."""

    id: str
    images: str
    state: str
    ready: int
    nodes: int
    began: float
    is_evacuation: bool


def job_rows(jobs: Iterable[Mapping[str, Any]]) -> list[JobRow]:
    """Return the jobs that go on."""
    return [_job(job) for job in jobs if job["ended"] is None]


def _job(job: Mapping[str, Any]) -> JobRow:
    nodes = [one for image in job["images"] for one in image["nodes"].values()]
    images = job["request"]["images"]
    more = f" +{len(images) - 1}" if len(images) > 1 else ""
    return JobRow(
        id=job["id"],
        images=f"{images[0]}{more}" if images else "",
        state=job["state"],
        ready=sum(one["state"] in READY for one in nodes),
        nodes=len(nodes),
        began=job["created"],
        is_evacuation=job["evacuation"],
    )
