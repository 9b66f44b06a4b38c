"""Parts of py-libp2p that a node does not load, and the budget of all that it does."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import Any

import pytest

from spegel_py.routing.libp2p import ed25519_keys
from spegel_py.routing.libp2p.stand_ins import FOREIGN, UNUSED, StandInUsed, _Module

HTTP = """
aiofiles aiohappyeyeballs aiohttp aiosignal attr attrs cryptography frozenlist h11 idna multidict
prometheus_client propcache spegel_py structlog typing_extensions uvloop yarl
"""
"""Packages that a node may load before it answers `/livez`, besides Python's own."""
LIBP2P = """
async_generator base58 baseconv google libp2p morphys multiaddr multibase multicodec multihash noise
outcome psutil sniffio sortedcontainers trio trio_typing varint
"""
"""Packages that the libp2p side may load, while HTTP answers already."""
CONTAINERD = "google grpclib h2 hpack hyperframe"
LAYOUT = "anyio sniffio watchfiles"
"""Packages that a store of either kind may load."""

MODULES = 1118
"""Modules that a node may have loaded, Python's own among them."""

COMMAND = "import spegel_py.commands.registry_command"
SERVICE = "import spegel_py.routing.libp2p.service"


@cache
def _loaded(code: str) -> list[str]:
    """Return the names of the modules that a new Python has loaded after the code."""
    shown = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, check=True, text=True)
    return list(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        (COMMAND, HTTP),
        (f"{COMMAND}; {SERVICE}", f"{HTTP} {LIBP2P}"),
        (f"{COMMAND}; import spegel_py.store.containerd", f"{HTTP} {CONTAINERD}"),
        (f"{COMMAND}; import spegel_py.store.layout", f"{HTTP} {LAYOUT}"),
    ],
    ids=["http", "libp2p", "containerd", "layout"],
)
def test_a_node_loads_only_the_packages_that_it_uses(code: str, allowed: str) -> None:
    """A package that is not in the list costs every node memory and time: find out who imports
    it.
    """
    packages = {name.partition(".")[0] for name in _loaded(code)} - sys.stdlib_module_names
    found = {name for name in packages if not name.startswith(("_", "cython"))}
    assert found <= set(allowed.split())


def test_a_node_loads_no_more_modules_than_it_needs() -> None:
    modules = _loaded(f"{COMMAND}; {SERVICE}; import spegel_py.store.containerd")
    assert len(modules) <= MODULES


@pytest.mark.parametrize("package", sorted(UNUSED | FOREIGN))
def test_py_libp2p_would_load_it(package: str) -> None:
    """Where py-libp2p imports a part only when it is used, its stand-in has to go."""
    loaded = _loaded("import libp2p.host.basic_host, libp2p.kad_dht.pb")
    assert any(name == package or name.startswith(f"{package}.") for name in loaded)


def test_others_find_the_real_modules() -> None:
    """Only py-libp2p gets stand-ins for other people's modules."""
    code = f"{SERVICE}; import cryptography.x509, psutil"
    shown = f"{code}; print(cryptography.x509.__file__, psutil.__file__, psutil.Process().pid > 0)"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, check=True, text=True)
    assert done.stdout.split()[-1] == "True"


_MEANWHILE = """
import sys, threading
import anyio
import spegel_py.routing.libp2p
found = []

def audit(event, arguments):
    if event == "import" and arguments[0] == "libp2p.utils.varint" and not found:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

def other():
    import netaddr
    found.append(sys.modules.get("anyio") is anyio and "netaddr" in netaddr.__file__)

sys.addaudithook(audit)
import spegel_py.routing.libp2p.service
import anyio as again
print(found, again is anyio)
"""


def test_another_thread_imports_meanwhile() -> None:
    """A node's HTTP side imports what it needs while the libp2p side is being loaded."""
    done = subprocess.run(
        [sys.executable, "-c", _MEANWHILE], capture_output=True, check=True, text=True
    )
    assert done.stdout == "[True] True\n"


def test_a_late_package_runs_its_init_for_whoever_asks() -> None:
    """`libp2p.new_host` is defined in the `__init__` that a node does not run."""
    libp2p: Any = import_module("libp2p")
    assert callable(libp2p.new_host)
    with pytest.raises(AttributeError):
        _ = libp2p.no_such_name


def test_our_keys_are_py_libp2ps() -> None:
    """The same bytes, signatures and answers as its own, which use libsodium."""
    spec = PathFinder.find_spec("libp2p.crypto.ed25519", import_module("libp2p.crypto").__path__)
    assert spec is not None
    assert spec.loader is not None
    theirs: Any = module_from_spec(spec)
    spec.loader.exec_module(theirs)
    seed, data = bytes(range(32)), b"what is signed"
    pairs = [module.create_new_key_pair(seed) for module in (ed25519_keys, theirs)]
    signatures = [pair.private_key.sign(data) for pair in pairs]
    assert signatures[0] == signatures[1]
    for pair in pairs:
        public = pair.public_key
        assert public.to_bytes() == pairs[0].public_key.to_bytes()
        assert public.serialize() == pairs[0].public_key.serialize()
        assert public.verify(data, signatures[0])
        assert not public.verify(data + b"!", signatures[0])
        assert type(public).from_bytes(public.to_bytes()).verify(data, signatures[0])
        assert pair.private_key.to_bytes() == seed


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
import spegel_py.routing.libp2p.service
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
