"""Requests of the distribution spec: pulls, refusals with their errors, and errors as JSON."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.errors import (
    BlobUnknown,
    DigestInvalid,
    ManifestUnknown,
    NameInvalid,
    NotFound,
    OCIError,
    RangeInvalid,
    RequestInvalid,
    Unauthorized,
    Unsupported,
)
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import Kind, PullRequest, is_base, render
from spegel_py.oci.range import ByteRange, unsatisfiable
from spegel_py.oci.reference import full_repository

HEX = "a" * 64
DIGEST = Digest("sha256", HEX)
BLOB = f"/v2/app/blobs/sha256:{HEX}"


def parse(target: str, method: str = "GET", **headers: str) -> PullRequest:
    lines = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return PullRequest.parse(method=method, target=target, headers=lines)


def test_a_tag_is_named_by_its_registry_repository_and_tag() -> None:
    """A tag with `ns` is looked up under its full name, port included."""
    pull = parse("/v2/team/app/manifests/v1?ns=10.99.1.250%3A5000", "HEAD")
    assert pull == PullRequest(
        head=True,
        kind=Kind.MANIFEST,
        registry="10.99.1.250:5000",
        repository="team/app",
        reference="v1",
    )
    assert pull.key == pull.name == pull.label == "10.99.1.250:5000/team/app:v1"


def test_a_digest_is_looked_up_under_its_own_text() -> None:
    """A digest's key is its text, in every repository."""
    pull = parse(BLOB + "?ns=docker.io")
    assert (pull.kind, pull.digest, pull.key, pull.name) == (
        Kind.BLOB,
        DIGEST,
        f"sha256:{HEX}",
        None,
    )
    assert pull.label == "docker.io/library/app"


def test_a_digest_needs_no_registry() -> None:
    """Clients that treat this as a plain mirror send no `ns`: digests work."""
    assert parse(BLOB).registry is None
    assert parse(BLOB).label == "app"


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/v2/registry.example/team/app/manifests/v1", "registry.example/team/app:v1"),
        ("/v2/registry.example:5000/app/manifests/v1", "registry.example:5000/app:v1"),
        ("/v2/localhost/app/manifests/v1", "localhost/app:v1"),
        ("/v2/%5B%3A%3A1%5D%3A5000/app/manifests/v1", "[::1]:5000/app:v1"),
        ("/v2/REGISTRY-1.docker.io:443/alpine/manifests/3", "docker.io/library/alpine:3"),
        ("/v2/docker.io/grafana/grafana/manifests/3", "docker.io/grafana/grafana:3"),
    ],
)
def test_the_head_of_the_path_may_name_the_registry(path: str, key: str) -> None:
    """As a mirror with a path in `registries.conf`, in BuildKit's or in k3s's file asks."""
    assert parse(path).key == key
    blob = path.partition("/manifests/")[0] + f"/blobs/{DIGEST}"
    assert parse(blob).registry == parse(path).registry


def test_the_query_counts_before_the_header_and_the_header_before_the_path() -> None:
    """A repository may look like a registry; a client that names the registry means it so."""
    path = "/v2/my.team/app/manifests/v1"
    assert parse(path).key == "my.team/app:v1"
    assert parse(path, OCI_Namespace="r.io").key == "r.io/my.team/app:v1"
    assert parse(f"{path}?ns=q.io", OCI_Namespace="r.io").key == "q.io/my.team/app:v1"


def test_a_node_names_the_registry_in_the_query_only() -> None:
    """What a node asks for was parsed before; a digest without a registry stays so."""
    asked = f"/v2/my.team/app/blobs/{DIGEST}"
    assert parse(asked, X_Spegel_Mirrored="true").registry is None
    assert parse(asked).registry == "my.team"
    first = parse("/v2/docker.io/alpine/manifests/3")
    assert parse(first.target, X_Spegel_Mirrored="true").key == first.key


@pytest.mark.parametrize("path", ["/v2/registry.example/manifests/v1", "/v2/app/manifests/v1"])
def test_a_registry_alone_is_no_image(path: str) -> None:
    with pytest.raises(ManifestUnknown, match=r"/v2/REGISTRY/REPOSITORY/"):
        parse(path)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/v2/library/alpine/manifests/3", "docker.io/library/alpine:3"),
        ("/v2/alpine/manifests/3", "docker.io/library/alpine:3"),
        ("/v2/registry.example/app/manifests/3", "registry.example/app:3"),
        ("/v2/app/manifests/3?ns=r.io", "r.io/app:3"),
    ],
)
def test_a_default_registry_is_that_of_requests_that_name_none(path: str, key: str) -> None:
    """dockerd asks its registry-mirrors for Docker Hub's images without naming Docker Hub."""
    pull = PullRequest.parse(method="GET", target=path, default_registry="docker.io")
    assert pull.key == key
    headers = [("X-Spegel-Mirrored", "true")]
    peers = PullRequest.parse(
        method="GET", target=BLOB, headers=headers, default_registry="docker.io"
    )
    assert peers.registry is None


@pytest.mark.parametrize("query", ["", "?ns=", "?other=r.io"])
def test_a_tag_without_a_registry_is_nobodys(query: str) -> None:
    """It is a 404, after which clients go on to the registry. The text names the parameter."""
    with pytest.raises(ManifestUnknown, match=r"\?ns="):
        parse(f"/v2/app/manifests/v1{query}")


def test_an_empty_ns_is_none() -> None:
    """A digest needs no registry. An empty `ns` beside another one does not count."""
    assert parse(BLOB + "?ns=") == parse(BLOB)
    assert parse(BLOB + "?ns=&ns=r.io").registry == "r.io"


def test_the_registry_may_come_in_a_header() -> None:
    """OCI-Namespace names the registry if the query does not. Its last line counts."""
    assert parse("/v2/app/manifests/v1", OCI_Namespace="r.io").key == "r.io/app:v1"
    assert parse("/v2/app/manifests/v1?ns=", OCI_Namespace="r.io").key == "r.io/app:v1"
    assert parse("/v2/app/manifests/v1?ns=q.io", OCI_Namespace="r.io").key == "q.io/app:v1"
    with pytest.raises(NameInvalid):
        parse(BLOB, OCI_Namespace="a/b")


@pytest.mark.parametrize(
    "ns",
    ["index.docker.io", "registry-1.docker.io", "DOCKER.io", "docker.io:443"],
)
def test_all_spellings_of_a_registry_have_one_key(ns: str) -> None:
    """Peers are asked for the canonical spelling. Filters and the answer see the client's own."""
    pull = parse(f"/v2/library/alpine/manifests/3?ns={ns}")
    assert pull.key == pull.name == "docker.io/library/alpine:3"
    assert pull.target == "/v2/library/alpine/manifests/3?ns=docker.io"
    assert (pull.registry, pull.namespace) == ("docker.io", ns)
    assert pull.label == f"{ns}/library/alpine:3"


@pytest.mark.parametrize(
    ("path", "repository"),
    [
        ("/v2/manifests/manifests/v1", "manifests"),
        ("/v2/a/manifests/b/manifests/v1", "a/manifests/b"),
        ("/v2/a/blobs/manifests/v1", "a/blobs"),
        ("/v2/blobs/blobs/manifests/manifests", "blobs/blobs"),
        ("/v2/v2/manifests/v2", "v2"),
    ],
)
def test_repositories_may_be_called_like_endpoints(path: str, repository: str) -> None:
    """The rightmost `manifests` or `blobs` is the endpoint, after the repository."""
    assert parse(path + "?ns=r.io").repository == repository


def test_a_percent_encoded_digest_is_the_same_digest() -> None:
    """`%3A` in a reference is decoded once."""
    assert parse(f"/v2/app/manifests/sha256%3A{HEX}").digest == DIGEST


def test_a_request_in_absolute_form_is_the_same_request() -> None:
    """`GET http://host/v2/…` means what `GET /v2/…` means."""
    assert parse("http://10.0.0.1:5000" + BLOB) == parse(BLOB)
    assert is_base("http://10.0.0.1:5000/v2/")


@pytest.mark.parametrize("target", ["/v2/", "/v2", "/v2/?ns=docker.io"])
def test_the_base_is_known_with_and_without_slash(target: str) -> None:
    """`/v2/` and `/v2` are the API's base."""
    assert is_base(target)


@pytest.mark.parametrize(
    ("target", "error"),
    [
        pytest.param("/", NotFound, id="root"),
        pytest.param("/v1/app/manifests/v1", NotFound, id="v1"),
        pytest.param("/v2/_catalog", NotFound, id="catalog"),
        pytest.param("/v2/app/tags/list", NotFound, id="tags"),
        pytest.param("/v2/manifests/v1", NotFound, id="no repository"),
        pytest.param("*", NotFound, id="asterisk"),
        pytest.param("", NotFound, id="empty"),
        pytest.param("/v2//app/manifests/v1?ns=r.io", NameInvalid, id="empty segment"),
        pytest.param("/v2/app/manifests/?ns=r.io", NameInvalid, id="empty reference"),
        pytest.param("/v2/App/manifests/v1?ns=r.io", NameInvalid, id="upper case"),
        pytest.param("/v2/a/../b/manifests/v1?ns=r.io", NameInvalid, id="traversal"),
        pytest.param("/v2/a/%2e%2e/manifests/v1?ns=r.io", NameInvalid, id="encoded traversal"),
        pytest.param("/v2/a%2Fb/manifests/v1?ns=r.io", NameInvalid, id="encoded slash"),
        pytest.param("/v2/a%5Cb/manifests/v1?ns=r.io", NameInvalid, id="encoded backslash"),
        pytest.param("/v2/a%252e/manifests/v1?ns=r.io", NameInvalid, id="double encoding"),
        pytest.param("/v2/a%00/manifests/v1?ns=r.io", NameInvalid, id="nul"),
        pytest.param("/v2/a%ff/manifests/v1?ns=r.io", NameInvalid, id="not utf-8"),
        pytest.param("/v2/a%zz/manifests/v1?ns=r.io", NameInvalid, id="bad escape"),
        pytest.param("/v2/app/manifests/-x?ns=r.io", NameInvalid, id="tag"),
        pytest.param("/v2/app/manifests/v1?ns=", ManifestUnknown, id="empty ns"),
        pytest.param("/v2/app/manifests/v1?ns=a/b", NameInvalid, id="ns is no host"),
        pytest.param("/v2/app/manifests/v1?ns=a&ns=b", RequestInvalid, id="two ns"),
        pytest.param("/v2/app/blobs/v1?ns=r.io", DigestInvalid, id="blob by tag"),
        pytest.param("/v2/app/blobs/sha256:abc", DigestInvalid, id="short digest"),
        pytest.param(f"/v2/app/blobs/sha256:{HEX.upper()}", DigestInvalid, id="upper-case digest"),
        pytest.param(f"/v2/app/manifests/md5:{HEX}", DigestInvalid, id="algorithm"),
    ],
)
def test_what_is_malformed_is_refused_as_the_right_error(
    target: str, error: type[OCIError]
) -> None:
    """Each malformed target is refused with the spec's error."""
    with pytest.raises(error):
        parse(target)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "get"])
def test_only_get_and_head_pull(method: str) -> None:
    """Every other method is Unsupported."""
    with pytest.raises(Unsupported):
        parse(BLOB, method)


@given(st.text(alphabet=st.sampled_from("/v2amnifestsblo:%.0F?&=-_\x00é"), max_size=60))
def test_no_target_breaks_the_parser(text: str) -> None:
    """Any target is a request or an OCIError."""
    with contextlib.suppress(OCIError):
        parse("/v2/" + text)


REPOSITORIES = st.from_regex(r"[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,3}", fullmatch=True)
TAGS = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}", fullmatch=True)


@given(
    REPOSITORIES,
    TAGS,
    st.sampled_from(["docker.io", "10.0.0.1:5000", "[fd00::1]:5000"]),
    st.booleans(),
)
def test_the_target_sent_to_a_peer_reads_back_as_the_same_request(
    repository: str, tag: str, registry: str, head: bool
) -> None:
    """Parsing a request's own target gives the same request."""
    pull = PullRequest(
        head=head,
        kind=Kind.MANIFEST,
        registry=registry,
        repository=full_repository(registry, repository),
        reference=tag,
    )
    assert parse(pull.target, "HEAD" if head else "GET") == pull


def test_headers_are_read_line_by_line() -> None:
    """All Accept lines are kept in order. Header names ignore case."""
    pull = PullRequest.parse(
        method="GET",
        target=BLOB,
        headers=[
            ("Accept", "a/b"),
            ("accept", "c/d, e/f"),
            ("accept", "\xe9/x"),  # the line could not be sent on in another request
            ("RANGE", "bytes=3-"),
            ("x-spegel-mirrored", "True"),
        ],
    )
    assert pull.accept == ("a/b", "c/d, e/f")
    assert pull.range == ByteRange(3, None)
    assert pull.mirrored


def test_a_range_counts_for_get_only_and_without_conditions() -> None:
    """A Range of a HEAD, beside If-Range, or given twice is ignored (RFC 9110, 14.2)."""
    assert parse(BLOB, "HEAD", Range="bytes=3-").range is None
    assert parse(BLOB, Range="bytes=3-", If_Range='"x"').range is None
    twice = PullRequest.parse(
        method="GET", target=BLOB, headers=[("Range", "bytes=1-"), ("Range", "bytes=2-")]
    )
    assert twice.range is None
    with pytest.raises(RangeInvalid):
        parse(BLOB, Range="bytes=x")


def test_several_ranges_are_several_only_where_they_do_not_touch() -> None:
    """A single remaining range is a plain range. A manifest is never sent in parts."""
    several = parse(BLOB, Range="bytes=0-9,1000-1009")
    assert (several.range, several.range_header) == (None, "bytes=0-9,1000-1009")
    assert several.within(2000).ranges == (ByteRange(0, 9), ByteRange(1000, 1009))
    assert several.within(500).range == ByteRange(0, 9)
    assert several.within(500).ranges == ()
    with pytest.raises(RangeInvalid):
        parse(BLOB, Range="bytes=10-11,20-21").within(5)
    assert parse(BLOB, Range="bytes=5-9,10-19").range == ByteRange(5, 19)
    manifest = parse(f"/v2/app/manifests/{DIGEST}", Range="bytes=0-9,1000-1009")
    assert (manifest.range, manifest.ranges, manifest.range_header) == (None, (), None)


def test_errors_are_rendered_as_the_spec_says() -> None:
    """An error is JSON with code, message and, if there is one, detail."""
    rendered = render(BlobUnknown("nobody has it", detail={"attempts": 2}))
    assert rendered.status == 404
    assert rendered.headers["Content-Type"] == "application/json"
    entry = {"code": "BLOB_UNKNOWN", "message": "nobody has it", "detail": {"attempts": 2}}
    assert json.loads(rendered.body) == {"errors": [entry]}
    assert json.loads(render(NotFound("x")).body) == {
        "errors": [{"code": "UNSUPPORTED", "message": "x"}]
    }


@pytest.mark.parametrize(
    ("error", "header", "value"),
    [
        (Unsupported("x"), "Allow", "GET, HEAD"),
        (unsatisfiable(10), "Content-Range", "bytes */10"),
    ],
    ids=["405", "416"],
)
def test_errors_carry_the_header_their_status_calls_for(
    error: OCIError, header: str, value: str
) -> None:
    """405 names the allowed methods, 416 the content's length."""
    assert render(error).headers[header] == value


def test_a_401_asks_for_no_password() -> None:
    """containerd would answer with its user's password for the upstream registry."""
    assert "WWW-Authenticate" not in render(Unauthorized("x")).headers
