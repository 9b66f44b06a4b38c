"""The pre-heat list: the images that nodes shall have while they are listed. Pure.

preheat:
- image: registry.example/team/app:1.2    # or @sha256:…
  nodes: all                              # or a number, [names], {zone: eu-1a}, {zone: each}
  platform: auto                          # or linux/arm64
  depth: unpacked                         # or content (default), runtime
  pin: true                               # with depth runtime: the kubelet does not remove it
  refresh: 15m                            # look whether the tag moved; default: never
  rate: 20MB/s
  credentials: team-a                     # a file below --registry-credentials
  ready: true                             # the node is not ready without it
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from spegel_py import values
from spegel_py.errors import ConfigError
from spegel_py.oci.reference import Reference
from spegel_py.preheat.preheat_request import (
    EVERY_NODE,
    NodeChoice,
    PreheatDepth,
    depth_fault,
    parse_depth,
    parse_image,
    parse_platform,
    parse_rate,
)
from spegel_py.pull.plan import Platform

MAX_ENTRIES = 1000
"""Images in one list."""

MAX_FILE = 1024 * 1024
"""Bytes of the largest list: the limit of a ConfigMap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListEntry:
    """One image of the list.

    Args:
        nodes: the nodes that it is meant for.
        refresh: seconds between two looks at the tag; None to look once.
        ready: True if the node shall not be ready without it.
        pin: True if the kubelet shall not remove the image that the runtime pulls.
    """

    image: Reference
    nodes: NodeChoice = EVERY_NODE
    platform: Platform | None = None
    depth: PreheatDepth = PreheatDepth.CONTENT
    refresh: float | None = None
    rate: int = 0
    credentials: str = ""
    ready: bool = False
    pin: bool = False


def parse_list(data: bytes, *, where: str) -> tuple[ListEntry, ...]:
    """Return the entries of a list. Raises ConfigError, which names the place and the key."""
    if len(data) > MAX_FILE:
        raise ConfigError(f"{where}: more than {MAX_FILE} bytes")
    try:
        import yaml  # a node without a list does not load it

        document = yaml.safe_load(data)
    except Exception as error:
        cause = " ".join(str(error).split())[:300]
        raise ConfigError(f"{where} is not YAML: {cause}") from error
    if document is None:
        return ()
    if not isinstance(document, Mapping) or set(document) - {"preheat"}:
        raise ConfigError(f"{where}: it should have the key preheat, and no other")
    entries = document.get("preheat") or []
    if not isinstance(entries, list):
        raise ConfigError(f"{where}: preheat: it should be a list of images")
    if len(entries) > MAX_ENTRIES:
        raise ConfigError(f"{where}: preheat: {len(entries)} are more than {MAX_ENTRIES} images")
    found = [_entry(one, f"{where}: preheat[{at}]") for at, one in enumerate(entries)]
    seen: dict[Reference, int] = {}
    for at, one in enumerate(found):
        if (first := seen.setdefault(one.image, at)) != at:
            raise ConfigError(
                f"{where}: preheat[{at}].image: {one.image} is in preheat[{first}] already"
            )
    return tuple(found)


def _refresh(given: Any) -> float | None:
    return None if given == "never" else float(values.seconds(60, 365 * 86400)(given))


_PARSERS: Mapping[str, Callable[[Any], Any]] = {
    "image": parse_image,
    "nodes": NodeChoice.parse,
    "platform": parse_platform,
    "depth": parse_depth,
    "refresh": _refresh,
    "rate": parse_rate,
    "credentials": values.text,
    "ready": values.boolean,
    "pin": values.boolean,
}


def _entry(given: object, where: str) -> ListEntry:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: {values.quoted(given)} should be a mapping with the key image")
    if "image" not in given:
        raise ConfigError(f"{where}: the key image is missing")
    found = {}
    for key, value in given.items():
        if key not in _PARSERS:
            raise ConfigError(
                f"{where}: unknown key {str(key)[:80]!r}; known are {', '.join(_PARSERS)}"
            )
        try:
            found[str(key)] = _PARSERS[key](value)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{where}.{key}: {' '.join(str(error).split())[:500]}") from error
    if fault := depth_fault(found):
        raise ConfigError(f"{where}.{fault}")
    return ListEntry(**found)
