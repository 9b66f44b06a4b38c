"""Stand-ins for the parts of py-libp2p that a node never uses.

Importing py-libp2p 0.8 loads all its transports and protocols: QUIC, WebSocket, relays, mDNS,
pubsub, TLS, with some forty packages behind them. A node speaks TCP, Noise and yamux. Without the
other parts the import takes a third of the memory and of the time. A stand-in can be named,
subclassed and used in annotations. Calling one raises StandInUsed with its name.

1. A module of `UNUSED` is a stand-in for everybody.
2. A module of `FOREIGN` is a stand-in for the importers in `IMPORTERS` only.
3. The `__init__` of py-libp2p's packages runs only if a name of it is asked for.
4. `libp2p.crypto.ed25519` is replaced by `ed25519_keys`.

`install` must run before py-libp2p is first imported, see `routing/libp2p/__init__.py`.
"""

from __future__ import annotations

import builtins
import enum
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from spegel_py.tools.spared_imports import late_spec

UNUSED = frozenset(
    {
        "libp2p.bitswap",
        "libp2p.crypto.rsa",
        "libp2p.crypto.secp256k1",
        "libp2p.discovery",
        "libp2p.host.observed_addr_manager",
        "libp2p.pubsub",
        "libp2p.rcmgr",
        "libp2p.relay",
        "libp2p.security.pnet",
        "libp2p.security.secio",
        "libp2p.security.tls",
        "libp2p.stream_muxer.mplex",
        "libp2p.tools.anyio_service.manager",
        "libp2p.transport.quic",
        "libp2p.transport.websocket",
        "multiaddr.resolvers",
    }
)
"""Modules of py-libp2p that get a stand-in, with all below them. The keys of peers are Ed25519, as
all of Spegel's are; a peer with another kind is refused at its handshake."""

FOREIGN = frozenset(
    {
        "anyio",
        "blake3",
        "cryptography.x509",
        "importlib.metadata",
        "mmh3",
        "netaddr",
        "psutil",
    }
)
"""Modules of others that py-libp2p imports for parts that a node does not use."""

LIBP2P = "0.8.1"
"""The version of py-libp2p, which it names to its peers."""

IMPORTERS = ("libp2p", "multiaddr", "multihash")
"""Packages whose modules find stand-ins for `FOREIGN`."""

MADE_AND_UNUSED = frozenset({"blake3.blake3", "multiaddr.resolvers.DNSResolver"})
"""Classes that py-libp2p makes an instance of for addresses by name; a node dials numbers only."""

REPLACED = {"libp2p.crypto.ed25519": "spegel_py.routing.libp2p.ed25519_keys"}
"""Modules of py-libp2p in whose place one of ours is loaded."""


class Direction(enum.IntEnum):
    """The direction of a connection, which py-libp2p keeps with its resource manager."""

    UNKNOWN = -1
    INBOUND = 0
    OUTBOUND = 1

    @classmethod
    def from_string(cls, text: str) -> Direction:
        """Return the direction of this name in small letters, UNKNOWN for any other text."""
        return cls.__members__.get(text.upper(), cls.UNKNOWN)


class PackedAddress:
    """An IP address by its bytes, with the part of netaddr's class that py-multiaddr uses."""

    def __init__(self, value: str | int, *, version: int) -> None:
        self._family = socket.AF_INET if version == 4 else socket.AF_INET6
        try:
            if isinstance(value, int):
                self.packed = value.to_bytes(4 if version == 4 else 16, "big")
            else:
                self.packed = socket.inet_pton(self._family, value)
        except (OSError, OverflowError, ValueError) as error:
            raise ValueError(f"{value!r} is no address of IPv{version}") from error

    def __str__(self) -> str:
        return socket.inet_ntop(self._family, self.packed)


PROVIDED: Mapping[str, object] = {
    "importlib.metadata.version": lambda name: LIBP2P,
    "netaddr.AddrFormatError": ValueError,
    "netaddr.IPAddress": PackedAddress,
    "libp2p.rcmgr.Direction": Direction,
    "libp2p.rcmgr.metrics.Direction": Direction,
}
"""Names of unused modules that are used all the same."""


class StandInUsed(RuntimeError):
    """A part of py-libp2p was called that this program does not load."""


class StandInError(Exception):
    """Stands in for an exception class of a part that is not loaded, so that it is never raised."""


class _StandIn:
    """Stands in for a class, a function or a constant."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"<stand-in for {self._name}>"

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[type, ...]:
        return ()  # a class that derives from it derives from its other bases

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _StandIn(f"{self._name}.{name}")

    def __call__(self, *args: object, **kwargs: object) -> Any:
        if self._name in MADE_AND_UNUSED:
            return _StandIn(f"{self._name}()")
        raise StandInUsed(f"{self._name} is not loaded, see {__name__}.UNUSED")

    def __instancecheck__(self, instance: object) -> bool:
        return False  # nothing is an instance of a class that is not loaded

    def __or__(self, other: object) -> Any:  # in annotations that are evaluated
        return self

    __ror__ = __or__

    def __getitem__(self, item: object) -> Any:
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class _Module(ModuleType):
    """A module that has whatever is asked of it."""

    __path__: list[str] = []  # noqa: RUF012 - the import system wants a list on the module

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        full = f"{self.__name__}.{name}"
        value = PROVIDED.get(full) or _StandIn(full)
        if full not in PROVIDED and name.endswith(
            ("Error", "Exception", "Exceeded")
        ):  # `except` takes real classes only
            value = type(name, (StandInError,), {"__module__": self.__name__})
        setattr(self, name, value)
        return value


class _Finder(MetaPathFinder):
    """Finds the stand-ins before Python's own finders find the real modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if _is_within(fullname, UNUSED):
            return ModuleSpec(fullname, _StandInLoader(), is_package=True)
        if fullname in REPLACED:
            return ModuleSpec(fullname, _ReplacingLoader())
        if fullname.partition(".")[0] not in IMPORTERS:
            return None
        if fullname.startswith("libp2p") and (spec := late_spec(fullname, path)):
            return spec
        real = PathFinder.find_spec(fullname, path)
        if real is not None and real.loader is not None:
            real.loader = _ImporterLoader(real.loader)
        return real


class _StandInLoader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: there is nothing in it."""


class _ReplacingLoader(Loader):
    def exec_module(self, module: ModuleType) -> None:
        """Give the module the public names of ours."""
        ours = vars(import_module(REPLACED[module.__name__]))
        vars(module).update({name: ours[name] for name in ours if not name.startswith("_")})


class _ImporterLoader(Loader):
    """Loads a module as usual, but gives it stand-ins for the modules of `FOREIGN`.

    Only its own import statements find them. Another thread may be importing the real modules.
    """

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self._real.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code, whose import statements call `_import`."""
        vars(module)["__builtins__"] = _BUILTINS
        self._real.exec_module(module)


def _import(
    name: str,
    its_globals: Mapping[str, object] | None = None,
    its_locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """Import as `builtins.__import__` does, with stand-ins for the modules of `FOREIGN`.

    Without names after `import` it returns the topmost package, else the module itself.
    """
    if level == 0 and _is_within(name, FOREIGN):
        module = _foreign(name)
        return module if fromlist else _topmost(name, module)
    hidden = [each for each in fromlist or () if level == 0 and f"{name}.{each}" in FOREIGN]
    if not hidden:
        return builtins.__import__(name, its_globals, its_locals, fromlist or (), level)
    return _mixed(import_module(name), {each: _foreign(f"{name}.{each}") for each in hidden})


def _foreign(name: str) -> ModuleType:
    """Return the stand-in for a module of `FOREIGN`, which is known to its parent stand-in."""
    if name not in _FOREIGN:
        _FOREIGN[name] = _Module(name)
        parent, _, child = name.rpartition(".")
        if _is_within(parent, FOREIGN):
            setattr(_foreign(parent), child, _FOREIGN[name])
    return _FOREIGN[name]


def _topmost(name: str, module: ModuleType) -> ModuleType:
    """Return the topmost package of a stand-in, the real one where only a part is foreign."""
    parent, _, child = name.rpartition(".")
    if not parent:
        return module
    if _is_within(parent, FOREIGN):
        return _topmost(parent, _foreign(parent))
    return _topmost(parent, _mixed(import_module(parent), {child: module}))


def _mixed(real: ModuleType, parts: Mapping[str, ModuleType]) -> ModuleType:
    """Return a module that has these parts, and otherwise what the real one has."""
    mixed = ModuleType(real.__name__)
    vars(mixed).update(parts, __getattr__=partial(getattr, real))
    return mixed


_FOREIGN: dict[str, ModuleType] = {}
"""The stand-ins for modules of `FOREIGN`, which are never among the loaded modules."""

_BUILTINS = vars(builtins) | {"__import__": _import}
"""What the modules of `IMPORTERS` find as built-in."""


def _is_within(fullname: str, packages: frozenset[str]) -> bool:
    parts = fullname.split(".")
    return any(".".join(parts[:count]) in packages for count in range(1, len(parts) + 1))


def install() -> None:
    """Have imports of unused parts find stand-ins, once per process; modules loaded before stay."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
