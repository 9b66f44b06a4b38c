"""A request to pre-heat images, as a person or a program makes it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from spegel_py import values
from spegel_py.errors import ConfigError, OCIError, RequestInvalid
from spegel_py.oci.reference import Reference
from spegel_py.pull.plan import Platform

HERE, ALL = "this", "all"
"""Words for this node alone, and for all nodes."""

ZONE, EACH = "zone", "each"
"""The key of a choice by zone, and its value for one node in each zone."""

MAX_IMAGES = 64
"""Images in one request."""

MAX_NAMES = 1000
"""Nodes that one request may name."""

KEEP, TIMEOUT = 24 * 3600.0, 30 * 60.0
"""Seconds for which an image is kept after it came, and seconds for a job, by default."""

_KEEP = values.seconds(60, 10 * 365 * 86400)
_TIMEOUT = values.seconds(1, 24 * 3600)
_RATE = values.rate(0, 10**12)
_COUNT = values.integer(1, 100_000)


class PreheatDepth(StrEnum):
    """How far an image is brought."""

    CONTENT = "content"
    UNPACKED = "unpacked"
    RUNTIME = "runtime"


@dataclass(frozen=True, slots=True)
class NodeChoice:
    """The nodes that an image is meant for.

    Args:
        count: so many nodes; 0 for all.
        names: ids, ends of ids, addresses or names of nodes; `this` for the node that is asked.
            None to choose by count or by zone.
        zone: all nodes of a zone, or `each` for one node in each zone; empty to choose otherwise.
    """

    count: int = 0
    names: tuple[str, ...] | None = None
    zone: str = ""

    def __str__(self) -> str:
        if self.names is not None:
            return ",".join(self.names)
        if self.zone:
            return f"{ZONE}={self.zone}"
        return str(self.count) if self.count else ALL

    @classmethod
    def parse(cls, given: Any) -> NodeChoice:
        """Return the choice written as `all`, a number, names, or a zone. Raises ValueError.

        A zone is written `zone=eu-1a`, or in YAML and JSON `{zone: eu-1a}`.
        """
        if isinstance(given, int) and not isinstance(given, bool):
            return cls(count=_COUNT(given))
        if isinstance(given, Mapping):
            if set(given) != {ZONE}:
                raise ValueError(f"{values.quoted(given)} should have the key zone, and no other")
            return cls(zone=_zone(given[ZONE]))
        names = values.texts(given)
        if len(names) == 1 and names[0].startswith(f"{ZONE}="):
            return cls(zone=_zone(names[0].partition("=")[2]))
        if names == (ALL,):
            return cls()
        if len(names) == 1 and names[0].isdigit():
            return cls(count=_COUNT(names[0]))
        if not names or len(names) > MAX_NAMES:
            raise ValueError(
                f"{values.quoted(given)} should be all, a number of nodes, names of nodes, or "
                "zone=NAME"
            )
        return cls(names=names)


def _zone(given: Any) -> str:
    if not (found := values.zone(given)):
        raise ValueError("the name of the zone is missing; each stands for one node in each zone")
    return str(found)


EVERY_NODE = NodeChoice()
THIS_NODE = NodeChoice(names=(HERE,))


@dataclass(frozen=True, slots=True, kw_only=True)
class PreheatRequest:
    """Images, and the nodes that shall have them.

    Args:
        images: references with a tag or a digest.
        platform: the platform of all nodes' images; None for each node's own.
        keep: seconds for which a node keeps an image after it came.
        rate: bytes per second for each image on a node; 0 for no limit.
        timeout: seconds for the whole job.
        credentials: a name of credentials on the nodes; empty for their config.json.
        pin: True to keep the kubelet from removing images that the runtime pulls.
    """

    images: tuple[Reference, ...]
    nodes: NodeChoice = THIS_NODE
    platform: Platform | None = None
    depth: PreheatDepth = PreheatDepth.CONTENT
    keep: float = KEEP
    rate: int = 0
    timeout: float = TIMEOUT
    credentials: str = ""
    pin: bool = False

    @classmethod
    def parse(cls, given: object, *, images: tuple[Reference, ...] | None = None) -> PreheatRequest:
        """Return the request in a JSON object. Raises RequestInvalid, which names the key.

        `images` are used in place of those in the object, if given.
        """
        if not isinstance(given, Mapping):
            raise RequestInvalid("the body should be a JSON object with the key images")
        for key in given:
            if key not in _PARSERS and key != "images":
                known = ", ".join(("images", *_PARSERS))
                raise RequestInvalid(f"unknown key {str(key)[:80]!r}; known are {known}")
        found = {key: _parsed(key, given[key]) for key in _PARSERS if given.get(key) is not None}
        if fault := depth_fault(found):
            raise RequestInvalid(fault)
        if images is None:
            images = _images(given.get("images"))
        return cls(images=images, **found)

    @classmethod
    def of_evacuation(
        cls, given: object, *, images: tuple[Reference, ...], platform: Platform
    ) -> PreheatRequest:
        """Return the request to bring these images to one other node each.

        `given` is a JSON object with `keep` and `timeout`. Raises RequestInvalid.
        """
        if not isinstance(given, Mapping) or set(given) - {"keep", "timeout"}:
            raise RequestInvalid("the body should be a JSON object with keep and timeout at most")
        found = cls.parse(given, images=images)
        return replace(found, nodes=NodeChoice(count=1), platform=platform)

    def as_json(self) -> dict[str, object]:
        """Return the request in the form that `parse` reads."""
        return {
            "images": [str(one) for one in self.images],
            "nodes": str(self.nodes),
            "platform": str(self.platform) if self.platform else "auto",
            "depth": self.depth.value,
            "keep": values.written_duration(self.keep),
            "rate": self.rate,
            "timeout": values.written_duration(self.timeout),
            "credentials": self.credentials,
            "pin": self.pin,
        }


def parse_image(text: object) -> Reference:
    """Return the reference of an image. Raises ValueError."""
    if not isinstance(text, str):
        raise ValueError(f"{values.quoted(text)} should be a reference: registry.example/app:1")
    try:
        return Reference.parse(text)
    except OCIError as error:
        raise ValueError(error.message) from error


def parse_platform(text: object) -> Platform | None:
    """Return the platform; None for `auto`, which is each node's own. Raises ValueError."""
    if text == "auto":
        return None
    try:
        return Platform.parse(values.text(text))
    except ConfigError as error:
        raise ValueError(str(error)) from error


def parse_depth(text: object) -> PreheatDepth:
    """Return the depth. Raises ValueError."""
    try:
        return PreheatDepth(str(text))
    except ValueError:
        raise ValueError(
            f"{values.quoted(text)} is no depth; known are {', '.join(PreheatDepth)}"
        ) from None


def depth_fault(found: Mapping[str, Any]) -> str:
    """Return the fault of a depth beside other keys of a request or a list's entry; empty if there
    is none.
    """
    is_runtime = found.get("depth") is PreheatDepth.RUNTIME
    if found.get("pin") and not is_runtime:
        return "pin: only an image of depth runtime can be pinned; others need no pin"
    if found.get("rate") and is_runtime:
        return "rate: a pull by the runtime, as with depth runtime, cannot be limited"
    return ""


parse_keep: Callable[[Any], float] = _KEEP
parse_rate: Callable[[Any], int] = _RATE

_PARSERS: Mapping[str, Callable[[Any], Any]] = {
    "nodes": NodeChoice.parse,
    "platform": parse_platform,
    "depth": parse_depth,
    "keep": _KEEP,
    "rate": _RATE,
    "timeout": _TIMEOUT,
    "credentials": values.text,
    "pin": values.boolean,
}


def _parsed(key: str, given: object) -> Any:
    try:
        return _PARSERS[key](given)
    except (ValueError, TypeError) as error:
        raise RequestInvalid(f"{key}: {error}") from error


def _images(given: object) -> tuple[Reference, ...]:
    if not isinstance(given, list) or not given:
        raise RequestInvalid("images: it should be a list of references, such as [registry/app:1]")
    if len(given) > MAX_IMAGES:
        raise RequestInvalid(f"images: {len(given)} are more than {MAX_IMAGES} in one request")
    try:
        return tuple(dict.fromkeys(parse_image(each) for each in given))
    except ValueError as error:
        raise RequestInvalid(f"images: {error}") from error
