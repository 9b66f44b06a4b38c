"""Image references with their registry spelled out: `registry/repository[:tag][@digest]`.

A tag's full name `registry/repository:tag` is what is looked up and advertised, exactly as Spegel does, so the
same text is found from every node.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from spegel_py.errors import NameInvalid
from spegel_py.oci.digest import Digest

MAX_NAME = 255
"""Longest `registry/repository` in characters; the limit most clients and registries use (distribution spec)."""

_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_REGISTRY = re.compile(
    r"(?:\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*)"
    r"(?::[0-9]{1,5})?"
)


def check_repository(text: str) -> str:
    """Return `text` if it is a repository name of the distribution spec, else raise NameInvalid."""
    if len(text) > MAX_NAME or not _REPOSITORY.fullmatch(text):
        raise NameInvalid(f"not a repository name: {text[:160]!r}")
    return text


def check_tag(text: str) -> str:
    """Return `text` if it is a tag of the distribution spec, else raise NameInvalid."""
    if not _TAG.fullmatch(text):
        raise NameInvalid(f"not a tag: {text[:160]!r}")
    return text


def check_registry(text: str) -> str:
    """Return `text` if it is a registry's `host[:port]` (name, IPv4, or IPv6 in brackets), else raise NameInvalid."""
    if len(text) > MAX_NAME or not _REGISTRY.fullmatch(text):
        raise NameInvalid(f"not a registry's host[:port]: {text[:160]!r}")
    return text


@dataclass(frozen=True, slots=True)
class Reference:
    """What an image is called; at least one of tag and digest is set."""

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"

    @property
    def name(self) -> str | None:
        """The tag's full name, `registry/repository:tag`: the key it is advertised under; None without a tag."""
        return f"{self.registry}/{self.repository}:{self.tag}" if self.tag else None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Return the reference written as `text`; a registry is required, a tag or a digest too.

        Raises NameInvalid or DigestInvalid. Short names such as `alpine` are not expanded here: containerd and the
        image-layout annotation both give full references.
        """
        rest, at, digest_text = text.partition("@")
        digest = Digest.parse(digest_text) if at else None
        registry, slash, path = rest.partition("/")
        if not slash or not is_host(registry):
            raise NameInvalid(f"a reference starts with its registry, as in registry.example/app:1: {text[:160]!r}")
        repository, colon, tag = path.partition(":")
        if not colon and digest is None:
            raise NameInvalid(f"a reference needs a tag or a digest: {text[:160]!r}")
        return cls(check_registry(registry), check_repository(repository), check_tag(tag) if colon else None, digest)


def is_host(text: str) -> bool:
    """Say whether the first part of a name is a registry, as Docker tells it from a repository's first part."""
    return "." in text or ":" in text or text == "localhost"
