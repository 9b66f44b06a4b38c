"""Pulls of one image by a containerd, as a kubelet requests them, with retries."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import grpc.aio

from spegel_py.oci.build import Image
from tests.support.lab import Node

DEADLINE = 60.0
"""Seconds after which a pull counts as hung, unless a program sets another bound."""

FAILURES = ("unreachable", "stalled", "refused", "mismatch", "unproven")
"""Outcomes of requests to a peer that count as the peer's fault."""

Content = Literal["right", "incomplete", "wrong"]
"""`wrong` if a stored blob does not match its digest, else `incomplete` if a blob is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt of a node's containerd to pull the image."""

    node: str
    """The node's address."""
    began: float
    """Unix time."""
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """All attempts of one node to pull the image, and the content it holds afterwards."""

    seconds: float
    """Seconds of the longest attempt."""
    succeeded: bool
    errors: tuple[str, ...] = ()
    """Why attempts failed, in order."""
    content: Content = "incomplete"

    @classmethod
    def of(cls, attempts: Sequence[Attempt], content: Content, **measured: Any) -> Self:
        """Return the pull that these attempts make up, with what a subclass measures besides."""
        return cls(
            seconds=max(attempt.seconds for attempt in attempts),
            succeeded=not attempts[-1].error,
            errors=tuple(attempt.error for attempt in attempts if attempt.error),
            content=content,
            **measured,
        )


async def attempt(node: Node, reference: str, *, deadline: float = DEADLINE) -> Attempt:
    """Let a containerd pull once."""
    wall, began, error = time.time(), time.monotonic(), ""
    try:
        await node.cri.pull(reference, deadline=deadline)
    except grpc.aio.AioRpcError as failure:
        error = f"{failure.code().name}: {failure.details()}"
    seconds = time.monotonic() - began
    return Attempt(node=node.address, began=wall, seconds=seconds, error=error)


async def attempts(
    node: Node,
    reference: str,
    *,
    tries: int,
    before_retry: Callable[[Node, str], Awaitable[None]],
    deadline: float = DEADLINE,
) -> list[Attempt]:
    """Let a containerd pull until it succeeds, at most `tries` times.

    `before_retry` gets the node and the last error, and returns when the next attempt may begin.
    """
    made = [await attempt(node, reference, deadline=deadline)]
    while made[-1].error and len(made) < tries:
        await before_retry(node, made[-1].error)
        made.append(await attempt(node, reference, deadline=deadline))
    return made


def content_of(image: Image, node: Node) -> Content:
    """Return the state of an image in a node's content store, which is read whole."""
    found: Content = "right"
    for blob in image.blobs:
        try:
            with node.daemon.path(blob.digest).open("rb") as file:
                if hashlib.file_digest(file, blob.digest.algorithm).hexdigest() != blob.digest.hex:
                    return "wrong"
        except FileNotFoundError:
            found = "incomplete"
    return found
