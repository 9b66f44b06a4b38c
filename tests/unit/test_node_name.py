"""The name by which a node's registry recognises the requests of its own runtime."""

from __future__ import annotations

import socket
import tomllib
from pathlib import Path

import pytest

from spegel_py import node_name as module
from spegel_py import settings
from spegel_py.errors import ConfigError
from spegel_py.host import hosts_toml
from spegel_py.node_name import NODE_NAME, node_name


def given(text: str) -> str:
    values = settings.resolve([NODE_NAME], flags={"node_name": text}, environment={}, file=None)
    name = values["node_name"]
    assert isinstance(name, str)
    return name


def test_a_name_that_was_given_is_used() -> None:
    """The host's own name plays no part then."""
    assert node_name(given("worker-1.example")) == "worker-1.example"


@pytest.mark.parametrize("text", ["a b", "a'b", "a\nb", "-a", "a-", "ä", "a" * 254])
def test_a_name_that_no_header_can_carry_is_refused(text: str) -> None:
    """The error names the flag."""
    with pytest.raises(ConfigError, match=r"--node-name: .* should be a node's name"):
        given(text)


@pytest.mark.parametrize(
    ("host", "machine", "name"),
    [
        ("worker-1", "0123456789abcdef\n", "worker-1-01234567"),
        ("worker-1", None, "worker-1"),
        ("worker-1", "not an id\n", "worker-1"),
        ("wörker 1", None, "w-rker-1"),
        ("...", None, "node"),
        ("a" * 400, "0123456789", "a" * 240 + "-01234567"),
    ],
)
def test_by_default_the_host_names_the_node(
    host: str, machine: str | None, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hosts with one name differ by their machine-id, and whatever a host is called, its name can
    be a setting.
    """
    path = tmp_path / "machine-id"
    if machine is not None:
        path.write_text(machine)
    monkeypatch.setattr(module, "MACHINE_ID", path)
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    assert node_name(given("")) == name == given(name)
    file = tomllib.loads(hosts_toml.blocks(["http://a"], can_resolve=True, node=name))
    assert file["host"]["http://a"]["header"] == {"X-Spegel-Node": name}
