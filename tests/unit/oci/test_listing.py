"""Requests for lists, their pages, and lists of peers that may be malformed."""

from __future__ import annotations

import json

import pytest

from spegel_py.errors import DigestInvalid, NameInvalid, NameUnknown, RequestInvalid
from spegel_py.oci import listing
from spegel_py.oci.digest import Digest
from spegel_py.oci.listing import ListKind, ListRequest, ReferrerEntry, TagPage, is_list
from spegel_py.oci.manifest import MAX_MANIFEST, OCI_INDEX, OCI_MANIFEST

DIGEST = Digest.of(b"it")


def parsed(target: str, **headers: str) -> ListRequest:
    return ListRequest.parse(target=target, headers=headers.items())


@pytest.mark.parametrize(
    ("target", "is_one"),
    [
        ("/v2/app/tags/list", True),
        ("/v2/r.io/team/app/tags/list?n=1", True),
        (f"/v2/app/referrers/{DIGEST}", True),
        ("http://proxy/v2/app/tags/list", True),
        ("/v2/tags/list", False),
        ("/v2/app/tags/list/", False),
        ("/v2/app/manifests/tags", False),
        (f"/v2/app/blobs/{DIGEST}", False),
        ("/v3/app/tags/list", False),
    ],
)
def test_a_list_is_told_by_its_path(target: str, is_one: bool) -> None:
    assert is_list(target) is is_one


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/v2/team/app/tags/list?ns=r.io", {}),
        ("/v2/team/app/tags/list", {"OCI-Namespace": "R.io:443"}),
        ("/v2/r.io/team/app/tags/list", {}),
    ],
)
def test_the_registry_is_named_in_three_ways(target: str, headers: dict[str, str]) -> None:
    found = parsed(target, **headers)
    assert (found.registry, found.repository) == ("r.io", "team/app")
    assert found.prefix == "r.io/team/app:"
    assert found.target == "/v2/team/app/tags/list?ns=r.io"


def test_the_default_registry_names_the_rest() -> None:
    found = ListRequest.parse(target="/v2/tool/tags/list", default_registry="docker.io")
    assert found.prefix == "docker.io/library/tool:"


def test_referrers_need_no_registry() -> None:
    found = parsed(f"/v2/app/referrers/{DIGEST}?artifactType=a%2Fb")
    assert (found.kind, found.subject, found.artifact_type) == (
        ListKind.REFERRERS,
        DIGEST,
        "a/b",
    )
    assert found.target == f"/v2/app/referrers/{DIGEST}"


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("/v2/app/tags/list", NameUnknown),
        ("/v2/App/tags/list?ns=r.io", NameInvalid),
        ("/v2/../tags/list?ns=r.io", NameInvalid),
        ("/v2/app/tags/list?ns=r.io&n=-1", RequestInvalid),
        ("/v2/app/tags/list?ns=r.io&n=many", RequestInvalid),
        ("/v2/app/tags/list?ns=r.io&ns=q.io", RequestInvalid),
        ("/v2/app/referrers/sha256:abc", DigestInvalid),
        ("/v2/app/referrers/latest", DigestInvalid),
    ],
)
def test_malformed_requests_are_refused(target: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        parsed(target)


TAGS = {"b", "a", "c", "B"}


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ("", TagPage(["B", "a", "b", "c"])),
        ("&n=4", TagPage(["B", "a", "b", "c"])),
        ("&n=0", TagPage([])),
        ("&last=a", TagPage(["b", "c"])),
        ("&last=zz", TagPage([])),
        (
            "&n=2",
            TagPage(["B", "a"], '</v2/app/tags/list?n=2&last=a&ns=r.io>; rel="next"'),
        ),
        ("&n=2&last=a", TagPage(["b", "c"])),
    ],
)
def test_pages_are_in_lexical_order(query: str, page: TagPage) -> None:
    assert listing.tag_page(TAGS, parsed(f"/v2/app/tags/list?ns=r.io{query}")) == page


def test_the_links_lead_through_all_tags() -> None:
    """However the registry is named, and whatever a tag looks like."""
    tags = {f"v{number}.0_x-{number}" for number in range(23)}
    target, seen = "/v2/r.io/app/tags/list?n=5", list[str]()
    while target:
        page = listing.tag_page(tags, parsed(target))
        seen += page.tags
        target = page.link.removeprefix("<").partition(">")[0]
    assert seen == sorted(tags)


def test_tags_of_other_repositories_are_left_out() -> None:
    names = {"r.io/app:1", "r.io/app:2", "r.io/app/sub:3", "r.io/application:4", "q.io/app:5"}
    assert listing.tags_below(names, parsed("/v2/app/tags/list?ns=r.io")) == {"1", "2"}


def test_referrers_are_one_index_without_repetitions() -> None:
    request = parsed(f"/v2/app/referrers/{DIGEST}?artifactType=sig")
    wanted = ReferrerEntry(DIGEST, 9, OCI_MANIFEST, "sig", {"a": "b"})
    other = ReferrerEntry(Digest.of(b"other"), 9, OCI_INDEX, "sbom")
    found = listing.matching([wanted, other, wanted], request)
    body = listing.referrers_body(found)
    assert json.loads(body) == {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [
            {
                "mediaType": OCI_MANIFEST,
                "digest": str(DIGEST),
                "size": 9,
                "artifactType": "sig",
                "annotations": {"a": "b"},
            }
        ],
    }
    assert listing.read_referrers(body) == found


def test_a_list_of_referrers_is_no_longer_than_a_manifest() -> None:
    note = {"note": "x" * (MAX_MANIFEST // 3)}
    many = [
        ReferrerEntry(Digest.of(bytes([number])), 9, OCI_MANIFEST, "", note) for number in range(4)
    ]
    body = listing.referrers_body(many)
    assert len(body) <= MAX_MANIFEST
    assert len(json.loads(body)["manifests"]) == 2


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"[]", b"null", b'{"tags": null}', b'{"tags": {}}', b"[" * 100_000],
)
def test_a_malformed_list_is_empty(data: bytes) -> None:
    assert listing.read_tags(data) == set()
    assert listing.read_referrers(data) == []


def test_malformed_entries_are_left_out() -> None:
    tags = json.dumps({"tags": ["1", "", "a/b", 7, None, "x" * 200]}).encode()
    assert listing.read_tags(tags) == {"1"}
    good = {"mediaType": OCI_MANIFEST, "digest": str(DIGEST), "size": 9}
    bad = [
        None,
        good | {"size": True},
        good | {"size": -1},
        good | {"size": MAX_MANIFEST + 1},
        good | {"digest": "sha256:abc"},
        good | {"mediaType": "text/html"},
        good | {"artifactType": 7},
    ]
    body = json.dumps({"manifests": [*bad, good | {"annotations": {"a": 1, "b": "c"}}]}).encode()
    assert listing.read_referrers(body) == [ReferrerEntry(DIGEST, 9, OCI_MANIFEST, "", {"b": "c"})]
