"""References and digests, exactly by the spec's grammar."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spegel_py.errors import DigestInvalid, NameInvalid, OCIError
from spegel_py.oci.digest import Digest
from spegel_py.oci.reference import (
    Reference,
    canonical_name,
    canonical_registry,
    check_registry,
)

HEX = "a" * 64
PART = st.from_regex(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*", fullmatch=True).filter(
    lambda part: len(part) < 40
)
REGISTRIES = st.sampled_from(
    [
        "docker.io",
        "localhost",
        "10.0.0.1:5000",
        "[fd00::1]:5000",
        "registry.example:443",
        "my_registry.local:5000",
        "registry.example.",
        "REG.example",
    ]
)
TAGS = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}", fullmatch=True)
DIGESTS = st.sampled_from(["sha256", "sha512"]).flatmap(
    lambda name: st.binary(max_size=9).map(lambda data: Digest.of(data, name))
)
REFERENCES = st.builds(
    Reference,
    registry=REGISTRIES,
    repository=st.lists(PART, min_size=1, max_size=4).map("/".join),
    tag=st.none() | TAGS,
    digest=st.none() | DIGESTS,
).filter(lambda reference: bool(reference.tag or reference.digest))


@given(REFERENCES)
def test_what_is_written_is_read_back(reference: Reference) -> None:
    """Text and value are two forms of one reference."""
    assert Reference.parse(str(reference)) == reference


@given(st.text(max_size=120))
def test_any_text_is_a_reference_or_a_clear_error(text: str) -> None:
    """Every text is a reference or raises one of the registry's own 400 errors."""
    try:
        reference = Reference.parse(text)
    except OCIError as error:
        assert error.status == 400  # noqa: PT017 - either outcome is right, each in its form
    else:
        assert str(reference) == text


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("docker.io/library/alpine:3", "docker.io/library/alpine:3"),
        ("10.0.0.1:5000/app:v1", "10.0.0.1:5000/app:v1"),
        ("[fd00::1]:5000/a/b:x", "[fd00::1]:5000/a/b:x"),
        (f"localhost/app:1@sha256:{HEX}", "localhost/app:1"),
        (f"docker.io/library/alpine@sha256:{HEX}", None),
    ],
)
def test_the_name_is_the_key_a_tag_is_advertised_under(text: str, name: str | None) -> None:
    """A tag's name omits the digest. A reference with only a digest has no name."""
    assert Reference.parse(text).name == name


@pytest.mark.parametrize(
    ("spelling", "canonical"),
    [
        ("docker.io", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
        ("Registry-1.Docker.io.:443", "docker.io"),
        ("docker.io:443", "docker.io"),
        ("docker.io:5000", "docker.io:5000"),
        ("docker.io.evil.example", "docker.io.evil.example"),
        ("REG.example", "reg.example"),
        ("reg.example.", "reg.example"),
        ("reg.example.:5000", "reg.example:5000"),
        ("reg.example:443", "reg.example"),
        ("reg.example:80", "reg.example:80"),
        ("10.0.0.1:443", "10.0.0.1"),
        ("[FD00::1]:443", "[fd00::1]"),
        ("[fd00::1]:5000", "[fd00::1]:5000"),
        ("[fd00::1]", "[fd00::1]"),
        ("my_registry.local:5000", "my_registry.local:5000"),
        ("LOCALHOST.", "localhost"),
        ("localhost:443", "localhost:443"),  # without a port it means http
        ("127.0.0.1:443", "127.0.0.1:443"),
        ("[::1]:443", "[::1]:443"),
        ("registry:443", "registry:443"),  # `registry/app` would not be recognised as a registry
        ("registry.", "registry."),
    ],
)
def test_the_canonical_spelling_of_a_registry(spelling: str, canonical: str) -> None:
    """Case, a trailing dot, the port of https, and docker.io's aliases make no other registry."""
    assert check_registry(spelling) == spelling
    assert canonical_registry(spelling) == canonical
    assert canonical_name(f"{spelling}/team/app:1") == f"{canonical}/team/app:1"
    assert Reference.parse(f"{spelling}/team/app:1").key == f"{canonical}/team/app:1"


@pytest.mark.parametrize("registry", ["docker.io", "index.docker.io", "DOCKER.IO:443"])
def test_docker_hubs_own_images_have_one_key(registry: str) -> None:
    assert canonical_name(f"{registry}/alpine:3") == "docker.io/library/alpine:3"
    assert canonical_name(f"{registry}/library/alpine:3") == "docker.io/library/alpine:3"
    assert canonical_name(f"{registry}/grafana/grafana:3") == "docker.io/grafana/grafana:3"
    assert canonical_name("registry.example/alpine:3") == "registry.example/alpine:3"


HOSTS = r"(\[[0-9a-fA-F:.]{1,6}\]|[a-zA-Z0-9_.-]{1,8})(:[0-9]{1,3}|:443)?"


@example("...")
@given(st.from_regex(HOSTS, fullmatch=True))
def test_the_canonical_spelling_is_its_own(text: str) -> None:
    """A canonical spelling stays, and is a registry exactly if the original is one."""
    canonical = canonical_registry(text)
    assert canonical_registry(canonical) == canonical
    try:
        check_registry(text)
    except NameInvalid:
        return
    assert check_registry(canonical) == canonical


@pytest.mark.parametrize("text", ["", "sha256:" + HEX, "library/alpine:3", "alpine"])
def test_what_names_no_registry_stays(text: str) -> None:
    """Digests and names without a registry are keys without a change."""
    assert canonical_name(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "alpine:3",
        "library/alpine:3",
        "docker.io/alpine",
        "docker.io/Alpine:3",
        "docker.io/a//b:1",
        "docker.io/../b:1",
        "docker.io/a:",
        "docker.io/a:-x",
        "docker.io/a:" + "x" * 129,
        "docker.io/" + "a" * 256 + ":1",
        "docker.io:port/a:1",
        "-bad.example/a:1",
        "a..example/a:1",
        ".example/a:1",
        "http://docker.io/a:1",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    """Short names, upper case, empty or escaping parts and overlong names are NameInvalid."""
    with pytest.raises(NameInvalid):
        Reference.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX.upper()}",
        f"md5:{HEX}",
        f"sha512:{HEX}",
        ":",
    ],
)
def test_what_is_no_digest_is_refused(text: str) -> None:
    """Unknown algorithms, wrong lengths and upper-case digits are DigestInvalid."""
    with pytest.raises(DigestInvalid):
        Digest.parse(text)


@given(st.binary(max_size=200), st.sampled_from(["sha256", "sha512"]))
def test_a_digest_knows_its_content(data: bytes, algorithm: str) -> None:
    """A digest is the hash of its content, by either algorithm, and of nothing else."""
    digest = Digest.of(data, algorithm)
    assert Digest.parse(str(digest)) == digest
    assert digest.hex == hashlib.new(algorithm, data).hexdigest()
    assert digest.matches(data)
    assert not digest.matches(data + b"x")
