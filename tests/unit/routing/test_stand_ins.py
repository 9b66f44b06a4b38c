"""Parts of py-libp2p that a node does not load, and the budget of all that it does."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from spegel_py.routing.libp2p.stand_ins import HOLLOW, UNUSED, StandInUsed, _Module

PACKAGES = """
Crypto aiofiles aiohappyeyeballs aiohttp aiosignal anyio async_generator attr attrs base58 baseconv
blake3 cffi coincurve cryptography frozenlist google greenlet grpc h11 idna libp2p mmh3 morphys
multiaddr multibase multicodec multidict multihash nacl noise outcome prometheus_client propcache
psutil pycparser pygments rich sniffio sortedcontainers spegel_py structlog trio trio_typing
typing_extensions varint watchfiles yaml yarl
"""
"""Packages that a node may load when it starts, besides Python's own."""

MODULES = 1350
"""Modules that a node may have loaded, Python's own among them; 1,293 when this was written."""


@cache
def _loaded(code: str) -> list[str]:
    """Return the names of the modules that a new Python has loaded after the code."""
    shown = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, check=True, text=True)
    return list(json.loads(done.stdout.splitlines()[-1]))


def test_a_node_loads_only_the_packages_that_it_uses() -> None:
    """A package that is not in the list costs every node memory and time: find out who imports
    it.
    """
    modules = _loaded("import spegel_py.node")
    packages = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names
    assert {name for name in packages if not name.startswith(("_", "cython"))} <= set(
        PACKAGES.split()
    )
    assert len(modules) <= MODULES


@pytest.mark.parametrize("package", sorted(UNUSED | HOLLOW))
def test_py_libp2p_would_load_it(package: str) -> None:
    """Where py-libp2p imports a part only when it is used, its stand-in has to go."""
    loaded = _loaded("import libp2p.host.basic_host, libp2p.kad_dht.pb")
    assert sum(name.startswith(f"{package}.") for name in loaded) >= 1


def test_a_stand_in_that_is_called_says_its_name() -> None:
    """At once, and where to look: silence would be a node that does something else."""
    module = _Module("libp2p.relay")
    with pytest.raises(StandInUsed, match=r"libp2p\.relay\.Relay\.start"):
        module.Relay.start()


def test_a_stand_in_can_be_named_in_a_class_and_an_annotation() -> None:
    """As py-libp2p does when it is imported."""
    relay: Any = _Module("libp2p.relay").Relay

    class Ours(relay):  # type: ignore[misc]  # its base is known at run time only
        pass

    assert relay | None is relay
    assert relay[int] is relay
    assert not isinstance(Ours(), relay)


_CAUGHT = """
import ast, inspect, json, sys
from pathlib import Path
import spegel_py.node
wrong = []
for name, module in sorted(sys.modules.items()):
    file = vars(module).get("__file__") if name.startswith("libp2p.") else None
    for node in ast.walk(ast.parse(Path(file).read_text() if file else "")):
        for each in ast.walk(node.type) if getattr(node, "type", None) else ():
            found = vars(module).get(each.id) if isinstance(each, ast.Name) else None
            if isinstance(node, ast.ExceptHandler) and "stand-in" in repr(found):
                wrong.append(f"{name}:{node.lineno} {each.id}")
print(json.dumps(wrong))
"""


def test_a_stand_in_for_an_exception_can_be_caught() -> None:
    """Python checks the classes of an `except` only when an exception comes."""
    done = subprocess.run(
        [sys.executable, "-c", _CAUGHT], capture_output=True, check=True, text=True
    )
    assert json.loads(done.stdout) == []
