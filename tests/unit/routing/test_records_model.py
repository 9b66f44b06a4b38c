"""The record table beside a model of plain sets: whatever happens, both know the same holders."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from spegel_py.routing.base import Peer
from spegel_py.routing.libp2p import holders, peer_records
from spegel_py.routing.libp2p.keys import name_hash
from spegel_py.routing.libp2p.records import RecordTable

POOL = [name_hash(str(number)) for number in range(10)]
PEERS = {name: Peer(name, f"10.0.0.{place}", 5000) for place, name in enumerate("ABCDE")}
KEYS = st.lists(st.sampled_from(POOL), max_size=8)
NAMES = st.sampled_from(sorted(PEERS))


@dataclass
class Known:
    """A peer in the model."""

    connected: bool = False
    interval: float | None = None
    expires: float = math.inf
    keys: set[bytes] = field(default_factory=set)
    staged: set[bytes] | None = None
    complete: bool = False
    pulled: dict[bytes, float] = field(default_factory=dict)
    provided: dict[bytes, float] = field(default_factory=dict)

    def holds(self, key: bytes, now: float, max_age: float) -> bool:
        if not self.connected:
            return False
        if key in self.keys and self.expires > now:
            return self.interval is not None and now - self.pulled.get(key, now) <= max_age
        return self.provided.get(key, 0.0) > now


def checksum_of(keys: set[bytes]) -> int:
    total = 0
    for key in keys:
        total ^= int.from_bytes(key[:8], "big")
    return total


class Beside(RuleBasedStateMachine):
    """Does everything to the table and to the model."""

    def __init__(self) -> None:
        super().__init__()
        self.table = RecordTable(rng=random.Random(1))
        self.model = {name: Known() for name in PEERS}
        self.now = 0.0

    @initialize()
    def start(self) -> None:
        for name in "AB":
            self.connect(name)
            self.hello(name, 5.0)

    # Connections

    @rule(name=NAMES)
    def connect(self, name: str) -> None:
        self.table.peer_connected(name)
        self.model[name].connected = True

    @rule(name=NAMES)
    def disconnect(self, name: str) -> None:
        self.table.peer_disconnected(name)
        self.model[name] = Known(provided=self.model[name].provided)

    @rule(name=NAMES, interval=st.sampled_from([2.0, 5.0]))
    def hello(self, name: str, interval: float) -> None:
        self.table.hello(name, PEERS[name], interval=interval, now=self.now)
        if (known := self.model[name]).connected:
            known.interval, known.expires = interval, self.now + 2 * interval

    @rule(name=NAMES)
    def hear(self, name: str) -> None:
        self.table.heard(name, self.now)
        if (known := self.model[name]).connected and known.interval is not None:
            known.expires = self.now + 2 * known.interval

    @rule()
    def clear(self) -> None:
        self.table.clear()
        self.model = {name: Known() for name in PEERS}

    # Records

    @rule(name=NAMES, keys=KEYS, first=st.booleans())
    def stage(self, name: str, keys: list[bytes], first: bool) -> None:
        self.table.stage(name, keys, first=first)
        if (known := self.model[name]).connected:
            known.staged = (set() if first or known.staged is None else known.staged) | set(keys)

    @rule(name=NAMES, complete=st.booleans())
    def commit(self, name: str, complete: bool) -> None:
        self.table.commit(name, complete=complete)
        if (known := self.model[name]).connected and known.staged is not None:
            known.keys, known.staged, known.complete = known.staged, None, complete
            known.pulled = {}

    @rule(name=NAMES, keys=KEYS)
    def add(self, name: str, keys: list[bytes]) -> None:
        self.table.add(name, keys)
        if (known := self.model[name]).connected:
            known.keys |= set(keys)

    @rule(name=NAMES, keys=KEYS)
    def remove(self, name: str, keys: list[bytes]) -> None:
        self.table.remove(name, keys)
        if (known := self.model[name]).connected:
            known.keys -= set(keys)
            for key in keys:
                known.pulled.pop(key, None)
                known.provided.pop(key, None)

    @rule(name=NAMES, keys=KEYS, age=st.sampled_from([0, 3, 9]))
    def record_ages(self, name: str, keys: list[bytes], age: int) -> None:
        self.table.record_ages(name, [(key, age) for key in keys], self.now)
        if (known := self.model[name]).connected:
            known.pulled |= {key: self.now - age for key in keys if key in known.keys}

    @rule(name=NAMES, keys=KEYS)
    def provide(self, name: str, keys: list[bytes]) -> None:
        for key in keys:
            if self.table.provide(name, key, PEERS[name], expires=self.now + 20.0):
                self.model[name].provided[key] = self.now + 20.0

    # Time

    @rule(seconds=st.sampled_from([1.0, 4.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        self.table.expire(self.now)
        for known in self.model.values():
            known.provided = {k: end for k, end in known.provided.items() if end > self.now}

    @rule(count=st.integers(1, 5))
    def sweep_a_little(self, count: int) -> None:
        self.table._index.sweep(count)

    # Both are the same

    @invariant()
    def they_name_the_same_holders(self) -> None:
        for key in POOL:
            for max_age in (math.inf, 5.0):
                expected = {
                    name
                    for name, known in self.model.items()
                    if known.holds(key, self.now, max_age)
                }
                found = self.table.providers(key, self.now, max_age=max_age)
                assert sorted(peer.id for peer in found) == sorted(expected)
                assert len(self.table.providers(key, self.now, max_age=max_age, limit=2)) == min(
                    2, len(expected)
                )

    @invariant()
    def they_judge_the_same_refreshes(self) -> None:
        for name, known in self.model.items():
            in_step = known.connected and known.interval is not None
            count, check = len(known.keys), checksum_of(known.keys)
            assert self.table.in_step(name, count=count, check=check) == in_step
            assert not self.table.in_step(name, count=count + 1, check=check)

    @invariant()
    def they_count_the_same(self) -> None:
        assert self.table.records() == {
            "announced": sum(len(known.keys) for known in self.model.values()),
            "provided": sum(len(known.provided) for known in self.model.values()),
        }
        connected = [known for known in self.model.values() if known.connected]
        assert self.table.knows_all(self.now) == all(
            known.interval is not None and known.complete and known.expires > self.now
            for known in connected
        )
        assert self.table.is_partial() == any(
            known.interval is not None and not known.complete for known in connected
        )

    def teardown(self) -> None:
        """At the end nothing is left that nobody holds."""
        self.table.expire(self.now)
        held: set[bytes] = set()
        for known in self.model.values():
            held |= known.keys | (known.staged or set())
            held |= {key for key, end in known.provided.items() if end > self.now}
        assert set(self.table._index.keys()) == held
        for name in PEERS:
            self.table.peer_disconnected(name)
        self.table.forget_departed(0)
        self.table.expire(self.now)
        assert (len(self.table._index), self.table._index._used) == (0, 0)


class Full(Beside):
    """The same with room for six keys: some are shed or refused, and none is made up."""

    def they_name_the_same_holders(self) -> None: ...

    def they_judge_the_same_refreshes(self) -> None: ...

    def they_count_the_same(self) -> None: ...

    @invariant()
    def it_keeps_to_the_bound(self) -> None:
        assert len(self.table._index) <= self.table._index.capacity

    @invariant()
    def it_makes_nothing_up(self) -> None:
        for key in POOL:
            for peer in self.table.providers(key, self.now):
                assert self.model[peer.id].holds(key, self.now, math.inf)

    @invariant()
    def what_it_holds_is_counted_and_summed(self) -> None:
        index = self.table._index
        for one in index._sets.values():
            keys = {key for key in set(index.keys()) if index.holds(one, key)}
            assert (one.count, one.checksum) == (len(keys), checksum_of(keys))

    @invariant()
    def a_set_that_is_not_cut_is_whole(self) -> None:
        for name, member in self.table._members.items():
            if member.keys is not None and not member.is_cut:
                held = {key for key in POOL if self.table._index.holds(member.keys, key)}
                assert held == self.model[name].keys

    def teardown(self) -> None: ...


def test_the_table_does_what_plain_sets_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through every order of hellos, sets, changes, ages, provider records, departures and
    sweeps."""
    monkeypatch.setattr(peer_records, "PROVIDED_TOGETHER", 0.0)
    run(Beside)


def test_a_full_table_holds_less_and_nothing_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is shed, counts and checksums stay those of the keys that are held."""
    monkeypatch.setattr(peer_records, "PROVIDED_TOGETHER", 0.0)
    monkeypatch.setattr(holders, "MAX_INDEX", 6 * holders.KEY_COST + 50)
    run(Full)


def run(machine: Any) -> None:
    run_state_machine_as_test(
        machine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )
