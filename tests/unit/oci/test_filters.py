"""Images that are mirrored, and images that are excluded."""

from __future__ import annotations

import re

import pytest

from spegel_py.oci.filters import EVERYTHING, Filters, repository_of


@pytest.mark.parametrize(
    ("label", "is_excluded"),
    [
        ("docker.io/library/alpine:3", False),
        ("docker.io/library/alpine", False),
        ("docker.io/library/alpine:latest", True),
        ("localhost/app:1", True),
        ("quay.io/app", True),
        ("library/alpine", False),  # asked for without a registry
        ("library/alpine:latest", True),
    ],
)
def test_patterns_and_registries_hold_at_once(label: str, is_excluded: bool) -> None:
    """Labels that match a pattern are excluded, and so are labels of other registries."""
    filters = Filters(patterns=[re.compile(":latest$")], registries=["docker.io"])
    assert filters.exclude(label) == is_excluded


@pytest.mark.parametrize(
    ("label", "is_excluded"),
    [
        ("registry-1.docker.io/library/alpine:3", False),
        ("docker.io:443/private/app:1", True),
        ("INDEX.docker.io/private/app:1", True),
        ("reg.example/app:1", False),
        ("Reg.Example./app:1", False),
        ("Reg.Example./own/app:1", True),
        ("quay.io/app:1", True),
    ],
)
def test_a_registry_is_filtered_however_it_is_spelled(label: str, is_excluded: bool) -> None:
    """Another spelling does not evade a rule. A pattern may be for one spelling only."""
    patterns = [re.compile("^docker.io/private/"), re.compile(r"^Reg\.Example\./own/")]
    filters = Filters(patterns=patterns, registries=["docker.io", "REG.example:443"])
    assert filters.exclude(label) == is_excluded


@pytest.mark.parametrize("wildcard", ["*", "_default"])
def test_a_wildcard_means_all_registries(wildcard: str) -> None:
    """It may stand beside other registries. Patterns still hold."""
    filters = Filters(patterns=[re.compile(":latest$")], registries=["docker.io", wildcard])
    assert not filters.exclude("quay.io/app:1")
    assert filters.exclude("quay.io/app:latest")
    assert not Filters(registries=[wildcard])


def test_no_rule_leaves_nothing_out() -> None:
    """Without rules everything is mirrored, and the filters are false."""
    assert not EVERYTHING
    assert not EVERYTHING.exclude("docker.io/library/alpine:latest")


@pytest.mark.parametrize(
    ("sources", "is_shared"),
    [
        (["docker.io/library/alpine"], True),
        (["docker.io/team/secret", "docker.io/library/alpine"], True),
        (["docker.io/team/secret"], False),
        (["quay.io/library/alpine", "docker.io/team/secret"], False),
        (["intranet/library/alpine"], False),
        ([], False),
    ],
)
def test_content_is_shared_if_one_of_its_sources_is(sources: list[str], is_shared: bool) -> None:
    """It is excluded if all sources are, also on a registry without a dot, or if no source is
    known.
    """
    patterns = [re.compile("secret$"), re.compile(":latest$")]
    assert Filters(patterns=patterns, registries=["docker.io"]).shares(sources) == is_shared
    assert Filters(patterns=patterns[1:]).shares(sources) == bool(sources)
    assert EVERYTHING.shares(sources)


def test_a_source_without_its_port_is_any_that_the_rules_name() -> None:
    """containerd does not keep the port, so the safe choice is a filtered registry."""
    filters = Filters(patterns=[re.compile(r"^10\.0\.0\.1:5000/secret/")])
    assert not filters.shares(["10.0.0.1/secret/app"])
    assert not filters.shares(["10.0.0.1:5000/secret/app"])
    assert filters.shares(["10.0.0.1:6000/secret/app"])
    assert filters.shares(["10.0.0.1/public/app"])
    only = Filters(registries=["10.0.0.1:5000"])
    assert only.shares(["10.0.0.1/app"])
    assert only.shares(["10.0.0.1:5000/app"])
    assert not only.shares(["10.0.0.1:6000/app"])
    assert not only.shares(["10.0.0.2/app"])


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("docker.io/library/alpine:3", "docker.io/library/alpine"),
        ("10.0.0.1:5000/app@sha256:" + "0" * 64, "10.0.0.1:5000/app"),
        ("sha256:" + "0" * 64, None),
        ("imported:latest", None),
    ],
)
def test_the_repository_of_an_image_name(name: str, repository: str | None) -> None:
    """Content is filtered by the repositories of its images' names."""
    assert repository_of(name) == repository
