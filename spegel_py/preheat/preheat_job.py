"""A pre-heat job: its images, the progress on each node, and the state of the whole. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from spegel_py.oci.digest import Digest
from spegel_py.oci.reference import Reference
from spegel_py.preheat.preheat_request import PreheatRequest

KEPT = 100
"""Ended jobs that a node remembers."""


class PreheatStage(StrEnum):
    """How far an image is on a node."""

    WAITING = "waiting"
    TAKING = "taking"
    UNPACKING = "unpacking"
    DONE = "done"
    HERE = "here already"
    REFUSED = "refused"
    FAILED = "failed"
    LOST = "lost"
    CANCELLED = "cancelled"


GOOD = frozenset({PreheatStage.DONE, PreheatStage.HERE})
OVER = GOOD | {PreheatStage.REFUSED, PreheatStage.FAILED, PreheatStage.LOST, PreheatStage.CANCELLED}


class JobState(StrEnum):
    """The state of a whole job."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(slots=True)
class NodeProgress:
    """The progress of one image on one node.

    Args:
        done: bytes that are there.
        total: bytes of the image; 0 while unknown.
        why: the kind of fault, for a node that failed, refused or waits to try again; for one that
            is ready, `content-only` if it could not unpack the image.
        error: the fault in a sentence.
        upstream: bytes that the node took from the registry.
    """

    stage: PreheatStage = PreheatStage.WAITING
    done: int = 0
    total: int = 0
    why: str = ""
    error: str = ""
    upstream: int = 0

    @property
    def is_over(self) -> bool:
        """Return True once nothing more happens on the node."""
        return self.stage in OVER

    def end(self, stage: PreheatStage, *, why: str = "", error: str = "") -> None:
        """Record the last state."""
        self.stage, self.why, self.error = stage, why, error

    def copy(self, other: NodeProgress) -> None:
        """Take over the state of another progress."""
        self.stage, self.done, self.total = other.stage, other.done, other.total
        self.why, self.error, self.upstream = other.why, other.error, other.upstream

    def as_json(self) -> dict[str, object]:
        """Return the progress as JSON."""
        return {
            "state": self.stage.value,
            "done": self.done,
            "total": self.total,
            "why": self.why,
            "error": self.error,
            "upstream": self.upstream,
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> NodeProgress:
        """Return the progress that `as_json` wrote. Raises KeyError, ValueError, TypeError."""
        return cls(
            stage=PreheatStage(given["state"]),
            done=int(given["done"]),
            total=int(given["total"]),
            why=str(given["why"]),
            error=str(given["error"]),
            upstream=int(given["upstream"]),
        )


@dataclass(slots=True)
class JobImage:
    """One image of a job.

    Args:
        digest: the digest that all nodes take; None until the tag was resolved.
        seen: the Unix time at which the registry gave it for the tag; None if it did not.
        nodes: the progress by the node's id.
        why: the kind of fault if the tag could not be resolved; then there are no nodes.
    """

    reference: Reference
    digest: Digest | None = None
    seen: float | None = None
    nodes: dict[str, NodeProgress] = field(default_factory=dict)
    why: str = ""
    error: str = ""

    @property
    def is_resolved(self) -> bool:
        """Return True once the nodes are chosen."""
        return bool(self.nodes)

    def as_json(self) -> dict[str, object]:
        """Return the image as JSON."""
        return {
            "image": str(self.reference),
            "digest": str(self.digest) if self.digest else None,
            "seen": self.seen,
            "why": self.why,
            "error": self.error,
            "nodes": {node: one.as_json() for node, one in self.nodes.items()},
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> JobImage:
        """Return the image that `as_json` wrote. Raises as PreheatJob.from_json."""
        return cls(
            reference=Reference.parse(given["image"]),
            digest=Digest.parse(given["digest"]) if given["digest"] else None,
            seen=None if given["seen"] is None else float(given["seen"]),
            why=str(given["why"]),
            error=str(given["error"]),
            nodes={str(node): NodeProgress.from_json(one) for node, one in given["nodes"].items()},
        )


@dataclass(slots=True, kw_only=True)
class PreheatJob:
    """A request that is carried out. Times are Unix times.

    Args:
        actor: the party that asked for it, as in `uid 0`.
        is_evacuation: True for a job that brings each image to one other node.
        ended: the time of the end; None while it goes on.
    """

    id: str
    actor: str
    request: PreheatRequest
    created: float
    images: list[JobImage]
    ended: float | None = None
    is_evacuation: bool = False
    is_cancelled: bool = False
    is_expired: bool = False

    @property
    def action(self) -> str:
        """The action that the audit names."""
        return "evacuate" if self.is_evacuation else "preheat"

    @property
    def deadline(self) -> float:
        """The time at which the job expires."""
        return self.created + self.request.timeout

    @property
    def expires(self) -> float:
        """The time until which nodes keep the images."""
        return self.created + self.request.keep

    @property
    def state(self) -> JobState:
        """The state of the whole, by those of its nodes."""
        progress = list(self.all_nodes())
        good = sum(one.stage in GOOD for one in progress)
        # Case 1: somebody or the time ended it before all nodes were ready.
        if self.is_cancelled:
            return JobState.CANCELLED
        if self.is_expired:
            return JobState.EXPIRED
        # Case 2: every node is over, and every tag was resolved, or will not be.
        if self.ended is not None:
            if good == len(progress) and not any(image.why for image in self.images):
                return JobState.SUCCEEDED
            return JobState.PARTIAL if good else JobState.FAILED
        # Case 3: it goes on.
        has_begun = any(one.stage is not PreheatStage.WAITING for one in progress)
        return JobState.RUNNING if has_begun else JobState.PENDING

    def all_nodes(self) -> Iterator[NodeProgress]:
        """Yield the progress of every image on every node."""
        return (one for image in self.images for one in image.nodes.values())

    def close(self, now: float) -> None:
        """Record the end. What was not ready by then is cancelled, or out of time."""
        self.ended = now
        for one in self.all_nodes():
            if not one.is_over and self.is_expired:
                error = one.error or "it was not ready when the job's time was over"
                one.end(PreheatStage.FAILED, why=one.why or "timeout", error=error)
            elif not one.is_over:
                one.end(PreheatStage.CANCELLED)

    def as_json(self) -> dict[str, object]:
        """Return the job as JSON, with its state."""
        return {
            "id": self.id,
            "state": self.state.value,
            "actor": self.actor,
            "created": round(self.created, 3),
            "ended": None if self.ended is None else round(self.ended, 3),
            "request": self.request.as_json(),
            "images": [image.as_json() for image in self.images],
            "evacuation": self.is_evacuation,
            "cancelled": self.is_cancelled,
            "expired": self.is_expired,
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> PreheatJob:
        """Return the job that `as_json` wrote. Raises KeyError, ValueError, TypeError, OCIError."""
        images = [JobImage.from_json(one) for one in given["images"]]
        references = tuple(one.reference for one in images)
        return cls(
            id=str(given["id"]),
            actor=str(given["actor"]),
            request=PreheatRequest.parse(given["request"], images=references),
            created=float(given["created"]),
            ended=None if given["ended"] is None else float(given["ended"]),
            images=images,
            is_evacuation=bool(given["evacuation"]),
            is_cancelled=bool(given["cancelled"]),
            is_expired=bool(given["expired"]),
        )


def kept(jobs: Iterable[PreheatJob]) -> list[PreheatJob]:
    """Return the jobs to remember: all that go on, and the last KEPT that ended."""
    given = sorted(jobs, key=lambda job: job.created)
    over = [job for job in given if job.ended is not None]
    dropped = {job.id for job in over[:-KEPT]}
    return [job for job in given if job.id not in dropped]
