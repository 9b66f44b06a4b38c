"""Stand-ins for the parts of py-libp2p that a node never uses.

Importing py-libp2p 0.8 loads all its transports and protocols: QUIC, WebSocket, relays, mDNS,
pubsub, TLS, with some forty packages behind them. A node speaks TCP, Noise and yamux. Without the
other parts the import takes half the memory and less than half the time. A stand-in can be named,
subclassed and used in annotations. Calling one raises StandInUsed with its name.

`install` must run before py-libp2p is first imported, see `routing/libp2p/__init__.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

UNUSED = frozenset(
    {
        "libp2p.bitswap",
        "libp2p.discovery",
        "libp2p.pubsub",
        "libp2p.relay",
        "libp2p.security.secio",
        "libp2p.security.tls",
        "libp2p.stream_muxer.mplex",
        "libp2p.transport.quic",
        "libp2p.transport.websocket",
        "multiaddr.resolvers",
    }
)
"""Packages of py-libp2p that get a stand-in, with all their modules."""

MADE_AND_UNUSED = frozenset({"multiaddr.resolvers.DNSResolver"})
"""Classes that py-libp2p makes an instance of for addresses by name; a node dials numbers only."""

HOLLOW = frozenset({"libp2p.kad_dht"})
"""Packages of which only some modules are used: these load, and `__init__` does not run."""


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
        value: Any = _StandIn(f"{self.__name__}.{name}")
        if name.endswith(("Error", "Exception")):  # `except` takes real classes only
            value = type(name, (StandInError,), {"__module__": self.__name__})
        setattr(self, name, value)
        return value


class _Finder(MetaPathFinder, Loader):
    """Finds the stand-ins before Python's own finders find the real modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in HOLLOW and (real := PathFinder.find_spec(fullname, path)) is not None:
            spec = ModuleSpec(fullname, self, is_package=True)
            spec.submodule_search_locations = real.submodule_search_locations
            return spec
        parts = fullname.split(".")
        packages = {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
        return ModuleSpec(fullname, self, is_package=True) if packages & UNUSED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return ModuleType(spec.name) if spec.name in HOLLOW else _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: there is nothing in it."""


def install() -> None:
    """Have imports of unused parts find stand-ins, once per process; modules loaded before stay."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
