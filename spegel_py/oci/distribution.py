"""The pull half of the OCI distribution spec: requests as values, and the renderer of its errors.

No web framework is involved. A method, a raw request target and header lines go in; a frozen
PullRequest or an OCIError comes out. Invalid requests never pass this module.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from types import MappingProxyType
from urllib.parse import quote, unquote

from spegel_py.errors import (
    BlobUnknown,
    CredentialsNeeded,
    ManifestUnknown,
    NameInvalid,
    NotFound,
    OCIError,
    RangeInvalid,
    RequestInvalid,
    Unsupported,
)
from spegel_py.oci.digest import Digest
from spegel_py.oci.range import ByteRange, ByteSpan, ContentRange, spans
from spegel_py.oci.reference import (
    canonical_registry,
    check_registry,
    check_repository,
    check_tag,
    full_repository,
    is_host,
)

MIRRORED_HEADER = "X-Spegel-Mirrored"
"""A peer sets it to `true` to be answered from local content only, so a request makes one hop (as
Spegel).
"""

IN_FLIGHT_HEADER = "X-Spegel-In-Flight"
"""A peer that a coordinator sent here sets it to `true`, to be answered from content still being
pulled.

Other peers are not answered so: two that wait for each other's first byte would wait for ever.
"""

SOURCE_HEADER = "X-Spegel-Source"
"""The id of the peer from which this node takes content that is still growing here."""

TAG_SEEN_HEADER = "X-Spegel-Seen"
"""The observation that comes with the answer of a tag (`routing.tag_observation`)."""

NODE_HEADER = "X-Spegel-Node"
"""The name of the node whose runtime asks.

`configuration` makes runtimes send it to every mirror in hosts.toml.
"""

RUNTIME_HEADER = "X-Spegel-Runtime"
"""The runtime token, by which a node knows its own runtime (`tools.runtime_token`)."""

CLIENT_HEADER = "X-Spegel-Client"
"""The kind of client, one of PullClient. Without it, the client is a runtime."""

NAMESPACE_HEADER = "OCI-Namespace"
"""Names the registry if the query has no `ns` (distribution spec, "Registry Proxying").

Answers have it too.
"""

WAYS_TO_NAME = "?ns=REGISTRY, the header OCI-Namespace, or /v2/REGISTRY/REPOSITORY/…"
"""The ways in which a request can name its registry, for people. They count in this order."""

HOW_TO_NAME = f"name it by {WAYS_TO_NAME}; or set --default-registry"
"""The advice for a request that has to name its registry and does not."""

METHODS = ("GET", "HEAD")


class Kind(Enum):
    """The kind of the requested content. Its value is the path segment before the reference."""

    MANIFEST = "manifests"
    BLOB = "blobs"

    def unknown(self, message: str, *, detail: object | None = None) -> OCIError:
        """Return the 404 for content of this kind that no node has."""
        error = ManifestUnknown if self is Kind.MANIFEST else BlobUnknown
        return error(message, detail=detail)


class PullClient(StrEnum):
    """The kind of client that pulls. Its value stands in CLIENT_HEADER, and in pull records."""

    RUNTIME = "runtime"
    """A container runtime, or any client that does not say what it is."""
    MEASURE = "measure"
    """A person who measures: `spegel-py measure`, or the status page."""
    PULL = "pull"
    """A person who runs `spegel-py pull`."""
    PREHEAT = "preheat"
    """A node that takes an image because a person asked for it."""
    REPLICA = "replica"
    """A node that takes an image in the background."""

    @property
    def is_background(self) -> bool:
        """True if the client gives way to all others."""
        return self is PullClient.REPLICA

    @property
    def is_node(self) -> bool:
        """True for a node, which no runtime or person waits for as its client."""
        return self in (PullClient.PREHEAT, PullClient.REPLICA)

    @classmethod
    def parse(cls, header: str) -> PullClient:
        """Return the client of a header's value; an unknown value is a runtime's."""
        return next((each for each in cls if each.value == header), cls.RUNTIME)


@dataclass(frozen=True, slots=True)
class PullRequest:
    """A valid pull request. `reference` is a tag only for a manifest whose registry is known.

    `registry` is the registry in `?ns=`, in OCI-Namespace, or at the head of the path, in its
    canonical spelling. It is None for a digest that was requested without one. `namespace` is the
    client's own spelling if that differs. `node` is the node whose runtime asks, if the client
    tells it. Several ranges of a blob are in `ranges`, and `range` is then None; for a manifest
    they are ignored.
    """

    head: bool
    kind: Kind
    registry: str | None
    repository: str
    reference: Digest | str
    range: ByteRange | None = None
    accept: tuple[str, ...] = ()
    mirrored: bool = False
    in_flight: bool = False
    node: str | None = None
    namespace: str | None = None
    ranges: tuple[ByteRange, ...] = ()
    client: PullClient = PullClient.RUNTIME

    @property
    def digest(self) -> Digest | None:
        """The requested digest; None for a tag."""
        return self.reference if isinstance(self.reference, Digest) else None

    @property
    def key(self) -> str:
        """The key that advertises the content: the digest, or `registry/repository:tag`."""
        return self.name or str(self.reference)

    @property
    def name(self) -> str | None:
        """The tag's full name `registry/repository:tag`; None for a digest."""
        return None if self.digest else f"{self.registry}/{self.repository}:{self.reference}"

    @property
    def label(self) -> str:
        """The name that filters are applied to, in the client's spelling.

        It is `registry/repository`, followed by `:tag` if a tag is requested.
        """
        registry = self.namespace or self.registry
        tag = "" if self.digest else f":{self.reference}"
        return f"{registry}/{self.repository}{tag}" if registry else self.repository

    @property
    def target(self) -> str:
        """The percent-encoded request target of this content at another registry mirror."""
        ns = f"?ns={quote(self.registry, safe='')}" if self.registry else ""
        return f"/v2/{self.repository}/{self.kind.value}/{self.reference}{ns}"

    @property
    def range_header(self) -> str | None:
        """The requested range or ranges as the value of a Range header."""
        asked = self.ranges or ([self.range] if self.range else [])
        specs = [str(one).removeprefix("bytes=") for one in asked]
        return f"bytes={','.join(specs)}" if specs else None

    def within(self, size: int) -> PullRequest:
        """Return the request for content of `size` bytes.

        It keeps several ranges only if they are separate in that content. Raises RangeInvalid if
        several ranges are requested and all lie outside the content.
        """
        if not self.ranges:
            return self
        found = tuple(map(_range_of, spans(self.ranges, size)))
        if len(found) > 1:
            return replace(self, ranges=found)
        return replace(self, range=found[0], ranges=())

    @classmethod
    def parse(
        cls,
        *,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]] = (),
        default_registry: str = "",
    ) -> PullRequest:
        """Return the request of a method, a target and header lines.

        Args:
            method: The HTTP method.
            target: The raw request target, percent-encoded and with its query.
            headers: The header lines as names and values.
            default_registry: The registry of a client's request that names none; empty for none.

        Raises:
            Unsupported: The method is not GET or HEAD.
            NotFound: The path is no endpoint.
            NameInvalid, DigestInvalid: The path is malformed.
            ManifestUnknown: A tag is requested without a registry.
            RequestInvalid: Two different registries are given.
            RangeInvalid: A byte range is malformed.
        """
        if method not in METHODS:
            raise Unsupported(f"only {' and '.join(METHODS)} are served here, not {method[:16]!r}")
        path, _, query = origin_form(target).partition("?")
        repository, kind, last = _split(path)
        fields = header_fields(headers)
        named = NamedRepository.parse(repository, query, fields, default_registry)
        head = method == "HEAD"
        ranges = () if head else _ranges(fields)
        return cls(
            head=head,
            kind=kind,
            registry=named.registry,
            repository=named.repository,
            reference=_reference(kind, last, named.registry),
            range=ranges[0] if len(ranges) == 1 else None,
            accept=tuple(
                line for line in fields.get("accept", ()) if line.isascii() and line.isprintable()
            ),
            mirrored=is_mirrored(fields),
            in_flight=_is_true(fields, IN_FLIGHT_HEADER),
            node=_last(fields, NODE_HEADER) or None,
            namespace=named.namespace,
            ranges=ranges if len(ranges) > 1 and kind is Kind.BLOB else (),
            client=PullClient.parse(_last(fields, CLIENT_HEADER)),
        )


@dataclass(frozen=True, slots=True)
class NamedRepository:
    """The repository of a request, and its registry if the request or the node names one.

    `namespace` is the client's spelling of the registry if that is not the canonical one.
    """

    registry: str | None
    repository: str
    namespace: str | None = None

    @classmethod
    def parse(
        cls, name: str, query: str, fields: Mapping[str, Sequence[str]], default_registry: str
    ) -> NamedRepository:
        """Return the repository with this `name` in the path, by the ways of WAYS_TO_NAME.

        Raises NameInvalid, and RequestInvalid if the query has two different registries.
        """
        namespace = parameter(query, "ns") or _last(fields, NAMESPACE_HEADER)
        if not namespace and not is_mirrored(fields):  # nodes name it in the query
            namespace, name = _named_by_path(name)
            namespace = namespace or default_registry
        registry = canonical_registry(check_registry(namespace)) if namespace else None
        repository = full_repository(registry, check_repository(name))
        own = namespace if namespace and namespace != registry else None
        return cls(registry, repository, own)


def is_mirrored(fields: Mapping[str, Sequence[str]]) -> bool:
    """Return True for a peer's request, which is answered from local content only."""
    return _is_true(fields, MIRRORED_HEADER)


def _is_true(fields: Mapping[str, Sequence[str]], header: str) -> bool:
    return _last(fields, header).lower() == "true"


def _last(fields: Mapping[str, Sequence[str]], header: str) -> str:
    return fields.get(header.lower(), [""])[-1].strip()


def origin_form(target: str) -> str:
    """Return a request target without scheme and host, which proxies send (RFC 9112, 3.2.2)."""
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        return target
    return "/" + rest.partition("/")[2]


def is_base(target: str) -> bool:
    """Return True for the API's base: `/v2/` (the spec's end-1) or, as registries allow, `/v2`."""
    return origin_form(target).partition("?")[0] in ("/v2/", "/v2")


def _split(path: str) -> tuple[str, Kind, str]:
    """Return repository, kind and reference of a raw path. The rightmost kind is the endpoint."""
    decoded = segments(path)
    if len(decoded) < 3 or decoded[-2] not in (Kind.MANIFEST.value, Kind.BLOB.value):
        raise NotFound(f"no such endpoint: {path[:160]!r}")
    return "/".join(decoded[:-2]), Kind(decoded[-2]), decoded[-1]


def segments(path: str) -> list[str]:
    """Return the decoded segments of a raw path below `/v2/`. Raises NotFound, NameInvalid."""
    parts = path.split("/")
    if parts[:2] != ["", "v2"]:
        raise NotFound(f"no such endpoint: {path[:160]!r}")
    return [_segment(part) for part in parts[2:]]


def _segment(raw: str) -> str:
    """Return one decoded path segment. No encoding may hide a separator or a traversal."""
    try:
        text = unquote(raw, errors="strict")
    except UnicodeDecodeError:
        raise NameInvalid(f"not UTF-8: {raw[:80]!r}") from None
    if (
        text in ("", ".", "..")
        or "/" in text
        or "\\" in text
        or "%" in text
        or not text.isprintable()
    ):
        raise NameInvalid(f"not a path segment of a name: {raw[:80]!r}")
    return text


def parameter(query: str, name: str) -> str:
    """Return a parameter of a raw query, percent-decoded once; empty if it is not given.

    Raises RequestInvalid if it is given with two values.
    """
    pairs = (pair.partition("=") for pair in query.split("&"))
    values = {value for key, _, value in pairs if key == name and value}
    if len(values) > 1:
        raise RequestInvalid(f"the parameter {name} is given twice")
    return unquote(values.pop()) if values else ""


def _named_by_path(name: str) -> tuple[str, str]:
    """Return the registry at the head of a name, empty if there is none, and the repository.

    As in an image's name, the first part is a registry if it has a dot or a colon or is
    `localhost`, and a repository follows.
    """
    first, slash, rest = name.partition("/")
    return (first, rest) if slash and is_host(first) else ("", name)


def _reference(kind: Kind, text: str, registry: str | None) -> Digest | str:
    if kind is Kind.BLOB or ":" in text:
        return Digest.parse(text)
    tag = check_tag(text)
    if registry is None:  # after a 404 clients go on to the registry
        raise ManifestUnknown(f"the tag {tag!r} needs its registry: {HOW_TO_NAME}")
    return tag


def header_fields(headers: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the header lines in order, by lower-case name."""
    fields: dict[str, list[str]] = {}
    for name, value in headers:
        fields.setdefault(name.lower(), []).append(value)
    return fields


def _ranges(fields: Mapping[str, list[str]]) -> tuple[ByteRange, ...]:
    """Return the requested ranges.

    They are ignored with If-Range: answers carry no validator that could match it.
    """
    lines = fields.get("range", [])
    return ByteRange.parse_all(lines[0]) if len(lines) == 1 and "if-range" not in fields else ()


def _range_of(span: ByteSpan) -> ByteRange:
    start, length = span
    return ByteRange(start, start + length - 1)


@dataclass(frozen=True, slots=True)
class RenderedError:
    """An error as it is sent. `body` is not sent for HEAD, but its length is."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def render(error: OCIError) -> RenderedError:
    """Return the error as the spec's JSON, with the headers of its status."""
    entry = {"code": error.code, "message": error.message, "detail": error.detail}
    body = json.dumps(
        {"errors": [{name: value for name, value in entry.items() if value is not None}]}
    )
    headers = {"Content-Type": "application/json", **_headers_of(error)}
    return RenderedError(error.status, MappingProxyType(headers), body.encode())


def _headers_of(error: OCIError) -> dict[str, str]:
    """Return the headers of an error.

    A 401 of the mirror itself has no challenge, though RFC 9110, 11.6.1, requires one. containerd
    answers a challenge with the user's credentials for the upstream registry, in clear text.
    Without a challenge it tries the next host, as with Spegel. Only a private image has one, which
    is the registry's own.
    """
    match error:
        case CredentialsNeeded():
            return {"WWW-Authenticate": error.challenge}
        case Unsupported():
            return {"Allow": ", ".join(METHODS)}
        case RangeInvalid(detail={"size": int(size)}):
            return {"Content-Range": str(ContentRange(None, 0, size))}
        case _:
            return {}
