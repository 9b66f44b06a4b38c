"""What registries, clients and image layouts say: manifests, ranges, names, requests, filters."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import pairwise

from hypothesis import strategies as st

from spegel_py.errors import ConfigError, ManifestInvalid, OCIError, RangeInvalid
from spegel_py.oci import manifest
from spegel_py.oci.distribution import PullRequest, is_base, origin_form, render
from spegel_py.oci.filters import Filters
from spegel_py.oci.range import MAX_BYTES, MAX_PARTS, ByteRange, ContentRange, spans
from spegel_py.oci.reference import MAX_NAME, Reference, canonical_name
from spegel_py.pull.plan import Platform, platforms, select
from spegel_py.pull.resume import judge_answer
from spegel_py.registry.middlewares import handler_name
from spegel_py.registry.multipart import Multipart
from spegel_py.values import patterns
from tests.fuzz.mutations import NUMBERS, as_json, objects
from tests.fuzz.target import target

DIGEST = "sha256:" + "a" * 64
LONG_DIGEST = "sha512:" + "b" * 128

# Manifests

_DESCRIPTORS = objects(
    {
        "mediaType": st.sampled_from((manifest.OCI_LAYER_GZIP, manifest.OCI_MANIFEST, "", "x/y")),
        "digest": st.sampled_from((DIGEST, LONG_DIGEST, DIGEST[:-1], "sha384:00")),
        "size": st.one_of(st.integers(0, 2**40), NUMBERS),
        "platform": objects(
            {"os": st.just("linux"), "architecture": st.just("arm"), "variant": st.just("v7")}
        ),
    }
)
_DOCUMENTS = as_json(
    objects(
        {
            "schemaVersion": st.sampled_from((2, 1, 2.0, None)),
            "mediaType": st.sampled_from((*sorted(manifest.MANIFESTS), "", None)),
            "config": _DESCRIPTORS,
            "layers": st.lists(_DESCRIPTORS, max_size=3),
            "manifests": st.lists(_DESCRIPTORS, max_size=3),
            "subject": _DESCRIPTORS,
        }
    )
)


def _descriptor(media_type: str, **more: object) -> dict[str, object]:
    return {"mediaType": media_type, "digest": DIGEST, "size": 7, **more}


_IMAGE = {
    "schemaVersion": 2,
    "mediaType": manifest.OCI_MANIFEST,
    "config": _descriptor(manifest.OCI_CONFIG),
    "layers": [_descriptor(manifest.OCI_LAYER_GZIP), _descriptor(manifest.OCI_LAYER)],
}
_INDEX = {
    "schemaVersion": 2,
    "mediaType": manifest.OCI_INDEX,
    "manifests": [
        _descriptor(manifest.OCI_MANIFEST, platform={"os": "linux", "architecture": "amd64"}),
        _descriptor(
            manifest.OCI_MANIFEST, platform={"os": "linux", "architecture": "arm", "variant": "v7"}
        ),
    ],
}


@target(
    "manifests",
    examples=(json.dumps(_IMAGE).encode(), json.dumps(_INDEX).encode()),
    refuses=(ManifestInvalid,),
    structured=_DOCUMENTS,
)
def _manifests(data: bytes) -> None:
    media_type = manifest.detect(data)
    if media_type in manifest.INDEXES:
        with suppress(ManifestInvalid):
            platforms(data)
        with suppress(ManifestInvalid, ConfigError):
            select(data, Platform("linux", "arm", "v7"))
    found = manifest.children(data)
    assert media_type in manifest.MANIFESTS
    assert all(0 <= child.size <= MAX_BYTES for child in found)
    assert manifest.all_children(data) == found


# Ranges

_RANGES = st.lists(
    st.builds(
        "{}-{}".format,
        st.one_of(st.just(""), st.integers(0, 50), st.integers(0, 2**65)),
        st.one_of(st.just(""), st.integers(0, 50), st.integers(0, 2**65)),
    ),
    max_size=40,
).map(lambda found: b"bytes=" + ",".join(found).encode())


@target(
    "ranges",
    examples=(b"bytes=0-", b"bytes=5-9", b"bytes=-7", b"bytes=0-1, 5-9,-2", b"items=1-2"),
    refuses=(RangeInvalid,),
    structured=_RANGES,
)
def _ranges(data: bytes) -> None:
    """A Range header, and the multipart body that answers it."""
    found = ByteRange.parse_all(data.decode("latin-1"))
    for each in found:
        assert ByteRange.parse(str(each)) == each
    if not found:
        return
    content = bytes(range(64))
    parts = spans(found, len(content))
    assert 0 < len(parts) <= MAX_PARTS
    assert all(length > 0 and 0 <= start <= len(content) - length for start, length in parts)
    assert all(sum(one) < two[0] for one, two in pairwise(parts))
    body = Multipart("x/y", len(content), parts)
    pieces = [
        piece for at in range(0, len(content), 7) for piece in body.pieces(at, content[at : at + 7])
    ]
    assert len(b"".join(pieces)) == body.length


@target(
    "content-ranges",
    examples=(b"bytes 0-9/10", b"bytes */10", b"bytes 3-4/100"),
    structured=st.builds(
        "bytes {}-{}/{}".format, st.integers(0, 2**65), st.integers(0, 2**65), st.integers(0, 2**65)
    ).map(str.encode),
)
def _content_ranges(data: bytes) -> None:
    text = data.decode("latin-1")
    judge_answer(status=206, content_range=text, length=None, offset=3, size=100)
    found = ContentRange.parse(text)
    if found is None:
        return
    assert ContentRange.parse(str(found)) == found
    assert 0 <= found.size <= MAX_BYTES
    assert found.start is None or 0 <= found.start <= found.size - found.length < found.size


# Names

_REFERENCES = st.builds(
    "{}/{}{}{}".format,
    st.sampled_from(
        ("registry.example", "localhost", "docker.io", "[::1]:5000", "REG.example.:443", "a_b:0")
    ),
    st.sampled_from(("app", "team/app", "a__b/c-d", "a" * 260, "A", "")),
    st.sampled_from((":1", ":latest", ":" + "a" * 130, ":", "")),
    st.sampled_from((f"@{DIGEST}", "@", "@sha256:", "")),
).map(str.encode)


@target(
    "references",
    examples=(
        b"registry.example/team/app:1",
        b"docker.io:443/library/app@" + DIGEST.encode(),
        b"[fd00::1]:5000/app:1@" + LONG_DIGEST.encode(),
    ),
    refuses=(OCIError,),
    structured=_REFERENCES,
)
def _references(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    canonical_name(text)
    reference = Reference.parse(text)
    assert str(reference) == text
    assert text.isascii()
    assert text.isprintable()
    if reference.key is not None:
        assert canonical_name(reference.key) == reference.key
        assert len(reference.key) <= 3 * MAX_NAME


# Requests

_TARGETS = st.builds(
    "{}{}/{}/{}{}".format,
    st.sampled_from(("", "http://x", "HTTPS://x:1", "ftp://x", "//x")),
    st.sampled_from(
        ("/v2/app", "/v2/team/app", "/v2/a/manifests", "/v2/%61pp", "/v2/..", "/v2/%2e%2e", "/v2")
    ),
    st.sampled_from(("manifests", "blobs", "tags", "%62lobs")),
    st.sampled_from(("1", DIGEST, DIGEST.replace(":", "%3A"), "a" * 200, "", "é")),
    st.sampled_from(
        (
            "",
            "?ns=reg.example",
            "?ns=a.b&ns=c.d",
            "?ns=%0d%0a",
            "?ns=REG.example:443",
            "?ns=%ff",
            "#?ns",
        )
    ),
)
_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            ["Accept", "Range", "If-Range", "X-Spegel-Mirrored", "X-Spegel-Node", "OCI-Namespace"]
        ),
        st.one_of(
            st.sampled_from(("true", "bytes=0-1,5-6", "reg.example", "a/b, */*")),
            st.text(max_size=30),
        ),
    ),
    max_size=4,
)
_REQUESTS = st.builds(
    lambda method, path, headers: "\n".join(
        [f"{method} {path}", *(f"{name}: {value}" for name, value in headers)]
    ).encode("utf-8", "surrogatepass"),
    st.sampled_from(("GET", "HEAD", "POST", "get")),
    _TARGETS,
    _HEADERS,
)


@target(
    "pull-requests",
    examples=(
        b"GET /v2/team/app/manifests/1?ns=registry.example\nAccept: a/b",
        b"HEAD /v2/app/blobs/" + DIGEST.encode() + b"\nX-Spegel-Mirrored: true",
        b"GET http://x/v2/app/blobs/" + DIGEST.encode() + b"?ns=REG.example\nRange: bytes=0-1,5-6",
    ),
    refuses=(OCIError,),
    structured=_REQUESTS,
)
def _requests(data: bytes) -> None:
    """A request line without its version, and header lines."""
    first, *lines = data.decode("utf-8", "surrogateescape").split("\n")
    method, _, path = first.partition(" ")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    handler_name(path)
    is_base(path)
    try:
        pull = PullRequest.parse(method=method, target=path, headers=headers)
    except OCIError as error:
        answer = render(error)
        assert 400 <= answer.status < 500
        assert len(answer.body) < 2000
        raise
    assert origin_form(pull.target) == pull.target
    peer = [("X-Spegel-Mirrored", "true")]
    again = PullRequest.parse(method=method, target=pull.target, headers=peer)
    assert (again.reference, again.registry, again.repository) == (
        pull.reference,
        pull.registry,
        pull.repository,
    )
    for text in (pull.key, pull.label, pull.target, *pull.accept):
        assert text.isascii()
        assert text.isprintable()
    for size in (0, 1, 64):
        with suppress(RangeInvalid):
            pull.within(size)


# Filters

_PATTERNS = st.lists(
    st.one_of(
        st.sampled_from(
            (
                ".",
                "*",
                "+",
                "?",
                "(",
                ")",
                "(?:",
                "(?=",
                "[[:alnum:]]",
                "[^a]",
                "\\z",
                "\\Q",
                "\\E",
                "\\pL",
                "(?i)",
            )
        ),
        st.sampled_from(
            ("{1000}", "{1,", "2}", "^", "$", "|", "a", "/", ":latest", "é", "\\1", "\\C")
        ),
        st.text(max_size=3),
    ),
    max_size=20,
).map(lambda parts: "".join(parts).encode("utf-8", "surrogatepass"))
_LABELS = (
    "docker.io/library/app:latest",
    "registry.example/" + "a/" * 100 + "x",
    "reg.example:443/é\x00",
)


@target(
    "filters",
    examples=(rb"^docker\.io/", rb":latest$", rb"^(.+/)+x$", rb"(?i)[[:alnum:]]{2,5}"),
    refuses=(ValueError,),
    structured=_PATTERNS,
)
def _filters(data: bytes) -> None:
    """An expression as an operator writes it, or two: refused with a ValueError, or it is looked
    for in any label.
    """
    found = patterns(data.decode("utf-8", "surrogateescape").split("\n")[:2])
    filters = Filters(patterns=found, registries=("REG.example",))
    for label in _LABELS:
        assert isinstance(filters.exclude(label), bool)


TARGETS = (_manifests, _ranges, _content_ranges, _references, _requests, _filters)
