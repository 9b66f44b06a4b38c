"""Registries and mirrors on the command line: Spegel's forms, and a clear error for all others."""

from __future__ import annotations

import re

import pytest

from spegel_py.host.registries import Registry, parse_registries, parse_targets


@pytest.mark.parametrize(
    ("given", "registry"),
    [
        ("https://docker.io", Registry("docker.io", "https://registry-1.docker.io")),
        ("http://docker.io", Registry("docker.io", "http://docker.io")),
        ("https://ghcr.io", Registry("ghcr.io", "https://ghcr.io")),
        (
            "http://registry.example:5000",
            Registry("registry.example:5000", "http://registry.example:5000"),
        ),
        ("https://[::1]:5000", Registry("[::1]:5000", "https://[::1]:5000")),
        ("https://[::1]", Registry("[::1]", "https://[::1]")),
        ("_default", Registry("_default", None)),
        ("*", Registry("_default", None)),
    ],
)
def test_a_registry_is_a_folder_and_a_server(given: str, registry: Registry) -> None:
    """The folder is the host as images name it, the server where it is asked."""
    assert parse_registries([given]) == (registry,)


def test_no_registry_means_all() -> None:
    """Without a registry `_default` is written; a duplicate counts once."""
    assert (
        parse_registries([]) == parse_registries(["*", "_default"]) == (Registry("_default", None),)
    )


@pytest.mark.parametrize(
    ("host", "folders"),
    [
        ("ghcr.io", ("ghcr.io",)),
        ("registry.example:5000", ("registry.example_5000_", "registry.example:5000")),
        ("[::1]:5000", ("[::1]_5000_", "[::1]:5000")),
        ("[::1]", ("[::1]",)),
        ("_default", ("_default",)),
    ],
)
def test_a_folder_with_a_port_has_two_names(host: str, folders: tuple[str, ...]) -> None:
    """containerd looks for host_port_ before host:port."""
    assert Registry(host, None).folders == folders


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("ftp://docker.io", "should begin with http:// or https://"),
        ("https://docker.io/library", "no more than a host and a port: write https://docker.io"),
        ("https://docker.io/", "no more than a host and a port"),
        ("https://docker.io?a=b", "no more than a host and a port"),
        ("https://user@docker.io", "a user name has no place here"),
        ("https://", "should be a URL"),
        ("https://_backup", "should be a URL"),
        ("https://..", "should be a URL"),
        ("https://a'b", "should be a URL"),
        ("https://a:0", "should be a URL"),
        ("https://a:65536", "should be a URL"),
        ("https://a:port", "should be a URL"),
        ("https://[::1", "should be a URL"),
    ],
)
def test_what_is_no_registry_is_named(given: str, named: str) -> None:
    """Any text but a URL with host and port is an error with advice; the same holds for mirrors."""
    for parse in (parse_registries, parse_targets):
        with pytest.raises(ValueError, match=re.escape(named)):
            parse([given])


@pytest.mark.parametrize("path", ["/", "/v2", "/v2/proxy/", "?a=b", "#a"])
def test_a_path_is_refused_with_the_way_to_go(path: str) -> None:
    """A mirror below a path belongs into a file by hand; repositories of a registry are for
    filters.
    """
    host = "https://harbor.example:8443"
    start = re.escape(f"{path}' should be no more than a host and a port: write {host}; ")
    with pytest.raises(ValueError, match=f"{start}.*override_path.*--prepend-existing"):
        parse_targets([host + path])
    with pytest.raises(ValueError, match=f"{start}.*--registry-filters"):
        parse_registries([host + path])


def test_a_registry_has_one_scheme() -> None:
    """One folder cannot go on at two servers."""
    with pytest.raises(ValueError, match=r"ghcr\.io is given with http and with https"):
        parse_registries(["https://ghcr.io", "http://ghcr.io"])


@pytest.mark.parametrize(
    ("given", "target"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("http://fc00:f853:ccd:e793::2:30020", "http://[fc00:f853:ccd:e793::2]:30020"),
        ("http://[fc00::2]:30020", "http://[fc00::2]:30020"),
        ("https://mirror_1.example", "https://mirror_1.example"),
    ],
)
def test_a_mirror_is_a_url(given: str, target: str) -> None:
    """An IPv6 address gets the brackets that Kubernetes leaves out, in every place of the list."""
    assert parse_targets(["http://first", given, given]) == ("http://first", target)


@pytest.mark.parametrize("given", ["*", "_default"])
def test_a_mirror_is_no_wildcard(given: str) -> None:
    """A wildcard for all registries is not a mirror."""
    with pytest.raises(ValueError, match="stands for registries"):
        parse_targets([given])
