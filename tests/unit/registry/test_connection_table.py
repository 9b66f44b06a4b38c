"""Who is hung up, and who is refused, where a port has as many connections as it takes."""

from __future__ import annotations

import resource

import pytest

from spegel_py.registry.connection_table import (
    LOOKED_AT,
    OWN,
    ConnectionLimits,
    ConnectionTable,
    group,
)
from spegel_py.tools import files

HOST = "10.0.0.1"
SMALL = ConnectionLimits(own=2, overall=6, per_address=3)


class Held:
    """A connection that is idle until the test says otherwise."""

    def __init__(self, name: str, *, is_idle: bool = True) -> None:
        self.name = name
        self.is_idle = is_idle
        self.is_closed = False

    def __repr__(self) -> str:
        return self.name

    def force_close(self) -> None:
        self.is_closed = True


def connect(connections: ConnectionTable, address: str, *, is_idle: bool = True) -> Held | None:
    """Return a new connection, None if there is no room for it."""
    held = Held(address, is_idle=is_idle)
    return held if connections.admit(held, address, HOST) else None


@pytest.mark.parametrize(
    ("client", "host", "expected"),
    [
        ("10.0.0.2", HOST, "10.0.0.2"),
        (HOST, HOST, OWN),
        ("127.0.0.1", "127.0.0.1", OWN),
        ("127.0.0.9", "127.0.0.1", OWN),
        ("::ffff:10.0.0.2", "::ffff:10.0.0.1", "10.0.0.2"),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1", OWN),
        ("::1", "::1", OWN),
        ("fd00::1:2:3:4", "fd00::9", "fd00000000000000"),
        ("fd00::ffff:2:3:4", "fd00::9", "fd00000000000000"),
        ("fe80::1%eth0", "fe80::2%eth0", "fe80000000000000"),
        ("no address", HOST, "no address"),
    ],
)
def test_addresses_are_grouped_by_host(client: str, host: str, expected: str) -> None:
    """Addresses of this host are one group; of IPv6 a host has a whole /64."""
    assert group(client, host) == expected


def test_an_address_that_has_enough_loses_what_it_used_least() -> None:
    """Its connection that has been idle for longest makes room for its new one; nobody else is
    touched.
    """
    connections = ConnectionTable(SMALL)
    other = connect(connections, "10.0.0.3")
    first, second, third = (connect(connections, "10.0.0.2") for _ in range(3))
    assert other is not None
    assert first is not None
    assert second is not None
    assert third is not None
    connections.used(first)
    assert connect(connections, "10.0.0.2")
    assert [each.is_closed for each in (other, first, second, third)] == [False, False, True, False]
    assert len(connections) == 4


def test_a_connection_in_use_is_never_hung_up() -> None:
    """Where all of an address are in use its new one is refused; others and this host still get
    in.
    """
    connections = ConnectionTable(SMALL)
    held = [connect(connections, "10.0.0.2", is_idle=False) for _ in range(3)]
    assert connect(connections, "10.0.0.2") is None
    assert connect(connections, "10.0.0.3")
    assert connect(connections, HOST)
    assert not any(each.is_closed for each in held if each)


def test_many_addresses_do_not_shut_out_this_host() -> None:
    """Others have a sum of their own, in which the one that has been idle for longest makes
    room.
    """
    connections = ConnectionTable(SMALL)
    others = [connect(connections, f"10.0.1.{number}") for number in range(6)]
    assert connect(connections, "10.0.2.1")
    assert [each.is_closed for each in others if each] == [True] + [False] * 5
    assert connect(connections, HOST)
    assert connect(connections, "127.0.0.1")
    assert len(connections) == 8


def test_this_host_does_not_shut_out_itself_while_some_are_idle() -> None:
    """Its connections have a bound too, which keeps the process's descriptors."""
    connections = ConnectionTable(SMALL)
    busy, idle = connect(connections, HOST, is_idle=False), connect(connections, HOST)
    assert connect(connections, HOST)
    assert busy is not None
    assert idle is not None
    assert (busy.is_closed, idle.is_closed) == (False, True)


def test_who_left_makes_room() -> None:
    """A connection that has ended counts no more, and its address is forgotten; ending twice is no
    matter.
    """
    connections = ConnectionTable(SMALL)
    held = [connect(connections, "10.0.0.2", is_idle=False) for _ in range(3)]
    for each in held:
        assert each
        connections.leave(each)
        connections.leave(each)
        connections.used(each)
    assert len(connections) == 0
    assert connect(connections, "10.0.0.2")
    assert repr(connections) == "<ConnectionTable: 1 of 1 addresses>"


def test_an_idle_connection_is_found_behind_any_number_of_busy_ones() -> None:
    """Busy ones are passed over for good, so that the search costs little and still ends."""
    connections = ConnectionTable(
        ConnectionLimits(own=1, overall=10_000, per_address=3 * LOOKED_AT)
    )
    for _ in range(3 * LOOKED_AT - 1):
        connect(connections, "10.0.0.2", is_idle=False)
    idle = connect(connections, "10.0.0.2")
    assert idle
    assert [connect(connections, "10.0.0.2") is None for _ in range(3)] == [True, True, False]
    assert idle.is_closed


def test_refusals_are_told_once_a_minute() -> None:
    """A stranger cannot fill the log."""
    connections = ConnectionTable(SMALL)
    assert [connections.should_log(now) for now in (0.0, 1.0, 59.0, 60.0, 61.0)] == [
        True,
        False,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize("limit", [64, 256, 1024, 4096, 65536, 1 << 20])
def test_the_room_fits_the_descriptors(limit: int) -> None:
    """All connections of both ports leave at least as many descriptors for everything else."""
    registry, metrics = ConnectionLimits.of_registry(limit), ConnectionLimits.of_metrics(limit)
    both = sum(each.own + each.overall for each in (registry, metrics))
    assert both <= max(limit // 2, 4)
    assert (limit < 20_000) or (registry, metrics.overall) == (ConnectionLimits(), 512)
    assert 4 * registry.per_address <= max(registry.overall, 4)


def test_the_soft_limit_becomes_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as a node can use it; where it may not be raised it stays what it is."""
    limits = [1024, 65536]

    def raised(_: int, wanted: tuple[int, int]) -> None:
        limits[:] = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", raised)
    assert files.raise_descriptor_limit() == 65536
    assert limits == [65536, 65536]
    limits[:] = [1024, resource.RLIM_INFINITY]
    assert files.raise_descriptor_limit() == files.MAX_DESCRIPTORS
    assert limits[1] == resource.RLIM_INFINITY

    def refused(_: int, __: tuple[int, int]) -> None:
        raise ValueError("not allowed")

    monkeypatch.setattr(resource, "setrlimit", refused)
    limits[:] = [1024, 65536]
    assert files.raise_descriptor_limit() == 1024
    limits[:] = [resource.RLIM_INFINITY, resource.RLIM_INFINITY]
    assert files.raise_descriptor_limit() == files.MAX_DESCRIPTORS
