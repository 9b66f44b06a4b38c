"""Where a registry is asked, by containerd's hosts.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from spegel_py.errors import ConfigError
from spegel_py.registry.upstream_host import UpstreamHost, read_upstream

REGISTRY = "r.example:5000"
NO_PLAIN: frozenset[str] = frozenset()


def written(root: Path, text: str, folder: str = REGISTRY) -> Path:
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / "hosts.toml").write_text(text)
    return root


@pytest.mark.parametrize(
    ("registry", "url"),
    [
        (REGISTRY, "https://r.example:5000/v2"),
        ("docker.io", "https://registry-1.docker.io/v2"),
        ("plain.example", "http://plain.example/v2"),
    ],
)
def test_without_a_file_a_registry_is_asked_by_its_name(
    tmp_path: Path, registry: str, url: str
) -> None:
    plain = frozenset({"plain.example"})
    for root in (None, tmp_path, tmp_path / "missing"):
        assert read_upstream(root, registry, plain=plain) == UpstreamHost(url=url)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("server = 'http://cache.example'", "http://cache.example/v2"),
        ("server = 'cache.example'", "https://cache.example/v2"),
        ("server = 'https://cache.example/v2'", "https://cache.example/v2"),
        ("server = 'https://cache.example/hub'", "https://cache.example/hub/v2"),
        ("server = 'https://c.example/hub'\noverride_path = true", "https://c.example/hub"),
        ("server = 'https://user:secret@c.example'", "https://c.example/v2"),
        ("[host.'http://127.0.0.1:5000']", "https://r.example:5000/v2"),
        ("server = 5", "https://r.example:5000/v2"),
    ],
)
@pytest.mark.parametrize("folder", [REGISTRY, "r.example_5000_", "_default"])
def test_the_server_of_the_file_is_asked(tmp_path: Path, folder: str, text: str, url: str) -> None:
    assert read_upstream(written(tmp_path, text, folder), REGISTRY, plain=NO_PLAIN).url == url


def test_certificates_are_those_of_the_file(tmp_path: Path) -> None:
    """As containerd reads them: relative to the folder, and one, several, or pairs."""
    root = written(
        tmp_path,
        "ca = ['ca.crt', '/etc/ca.crt']\nclient = [['a.cert', 'a.key'], ['b.pem', '']]\n"
        "skip_verify = true\n",
    )
    found = read_upstream(root, REGISTRY, plain=NO_PLAIN)
    folder = root / REGISTRY
    assert found.authorities == (folder / "ca.crt", Path("/etc/ca.crt"))
    assert found.clients == (
        (folder / "a.cert", folder / "a.key"),
        (folder / "b.pem", folder / "b.pem"),
    )
    assert found.is_unverified
    with pytest.raises(ConfigError, match=r"ca\.crt.*No such file"):
        found.tls()
    single = read_upstream(written(tmp_path, "client = 'c.pem'"), REGISTRY, plain=NO_PLAIN)
    assert single.clients == ((folder / "c.pem", folder / "c.pem"),)


@pytest.mark.parametrize("text", ["server = ", "\x00", "[[[", "a = " + "[" * 20_000])
def test_a_malformed_file_is_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="is not TOML"):
        read_upstream(written(tmp_path, text), REGISTRY, plain=NO_PLAIN)
