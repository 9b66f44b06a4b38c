"""Image references with an explicit registry: `registry/repository[:tag][@digest]`.

A tag is looked up and advertised under its full name `registry/repository:tag`, exactly as Spegel
does, so all nodes use the same key.

A replica, which a node keeps though its runtime may remove the image, has a key of its own.

A registry has several spellings: host names ignore case, 443 is the port of https, a trailing dot
is the root of the DNS, and docker.io has aliases. Its own images are written with `library/` or
without. Keys use the canonical spelling.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from spegel_py.errors import NameInvalid, OCIError
from spegel_py.oci.digest import Digest

MAX_NAME = 255
"""Characters of the longest `registry/repository`: the limit of most clients and registries
(distribution spec).
"""

_REPOSITORY = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_LABEL = r"[a-zA-Z0-9_](?:[a-zA-Z0-9_-]*[a-zA-Z0-9_])?"
_REGISTRY = re.compile(rf"(?:\[[0-9a-fA-F:.]+\]|{_LABEL}(?:\.{_LABEL})*\.?)(?::[0-9]{{1,5}})?")

DOCKER_HUB = "docker.io"
_ALIASES = {"index.docker.io": DOCKER_HUB, "registry-1.docker.io": DOCKER_HUB}
_LIBRARY = "library"
"""The part that Docker Hub's own images have before their name: docker.io/alpine is written so."""
_LOOPBACK = ("127.", "[::1]")
"""Prefixes of hosts that containerd asks without TLS, so 443 is not their default port."""


REPLICA = "replica:"
"""Prefix of the keys of replicas. The digest of a manifest follows."""


def replica_key(manifest: Digest) -> str:
    """Return the key that the nodes with a replica of an image advertise."""
    return f"{REPLICA}{manifest}"


def is_replica_key(key: str) -> bool:
    """Return True for the key of a replica, False for a digest or a tag."""
    return key.startswith(REPLICA)


DRAINING_KEY = f"{REPLICA}draining"
"""The key that the nodes advertise whose replicas do not count, since they are about to go."""


def tags_key(repository: str) -> str:
    """Return the key of the nodes that have a tag of this `registry/repository`, canonical."""
    return f"tags:{repository}"


def check_repository(text: str) -> str:
    """Return `text` if it is a repository name of the distribution spec. Raises NameInvalid."""
    if len(text) > MAX_NAME or not _REPOSITORY.fullmatch(text):
        raise NameInvalid(f"not a repository name: {text[:160]!r}")
    return text


def check_tag(text: str) -> str:
    """Return `text` if it is a tag of the distribution spec. Raises NameInvalid."""
    if not _TAG.fullmatch(text):
        raise NameInvalid(f"not a tag: {text[:160]!r}")
    return text


def check_registry(text: str) -> str:
    """Return `text` if it is a registry's `host[:port]`. Raises NameInvalid.

    The host is a name, an IPv4 address, or an IPv6 address in brackets. containerd accepts
    underscores and a trailing dot in a name.
    """
    if len(text) > MAX_NAME or not _REGISTRY.fullmatch(text):
        raise NameInvalid(f"not a registry's host[:port]: {text[:160]!r}")
    return text


def canonical_registry(text: str) -> str:
    """Return the canonical spelling of a registry. Any text is accepted.

    A spelling is not shortened if the result would not look like a registry, such as `name` for
    `name:443`.
    """
    bracket = text.rfind("]")
    host, colon, port = text[bracket + 1 :].partition(":")
    host = (text[: bracket + 1] + host).lower()
    without_root = host.removesuffix(".")
    if not without_root.endswith(".") and is_host(f"{without_root}{colon}{port}"):
        host = without_root
    host = _ALIASES.get(host, host)
    if port == "443" and host != "localhost" and is_host(host) and not host.startswith(_LOOPBACK):
        return host
    return f"{host}{colon}{port}"


def canonical_name(name: str) -> str:
    """Return the key of a tag: its full name with the registry in the canonical spelling.

    A text without a slash, such as a digest, is returned unchanged.
    """
    registry, slash, rest = name.partition("/")
    if not slash or not is_host(registry):
        return name
    canonical = canonical_registry(registry)
    return f"{canonical}/{full_repository(canonical, rest)}"


def full_repository(registry: str | None, repository: str) -> str:
    """Return a repository with the part that Docker Hub's own images may be written without."""
    is_short = registry == DOCKER_HUB and "/" not in repository
    return f"{_LIBRARY}/{repository}" if is_short else repository


@dataclass(frozen=True, slots=True)
class Reference:
    """The name of an image. A tag or a digest is set, or both."""

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
        """The tag's full name as written, `registry/repository:tag`; None without a tag."""
        return f"{self.registry}/{self.repository}:{self.tag}" if self.tag else None

    @property
    def key(self) -> str | None:
        """The key of the tag's lookup; None without a tag."""
        return canonical_name(self.name) if self.name else None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Return the reference written as `text`. It needs a registry, and a tag or a digest.

        Raises NameInvalid or DigestInvalid. Short names such as `alpine` are not expanded:
        containerd and the image-layout annotation both give full references.
        """
        rest, at, digest_text = text.partition("@")
        digest = Digest.parse(digest_text) if at else None
        registry, slash, path = rest.partition("/")
        if not slash or not is_host(registry):
            raise NameInvalid(f"name the registry: registry.example/{text[:160]}")
        repository, colon, tag = path.partition(":")
        if not colon and digest is None:
            raise NameInvalid(f"a reference needs a tag or a digest: {text[:160]!r}")
        return cls(
            check_registry(registry),
            check_repository(repository),
            check_tag(tag) if colon else None,
            digest,
        )


def is_host(text: str) -> bool:
    """Return True if the first part of a name is a registry, by Docker's rule."""
    return "." in text or ":" in text or text == "localhost"


def is_tag(name: str) -> bool:
    """Return True for a full tag name, `registry/repository:tag`."""
    try:
        return Reference.parse(name).name == name
    except OCIError:
        return False
