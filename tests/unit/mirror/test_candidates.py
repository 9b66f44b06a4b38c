"""The peers of a lookup as they come in."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from random import Random

from spegel_py.errors import RouterUnavailable
from spegel_py.mirror.candidates import Candidates
from spegel_py.mirror.scores import Scores
from spegel_py.mirror.selector import PeerSelector
from spegel_py.routing.base import NOTHING, Peer

A, B = Peer("a", "10.0.0.1", 5000), Peer("b", "10.0.0.2", 5000)


class ScriptedRouter:
    """Yields what the test puts into its queue: peers, None for the end, or an error."""

    def __init__(self) -> None:
        self.script: asyncio.Queue[Peer | Exception | None] = asyncio.Queue()

    async def lookup(
        self, _key: str, *, limit: int, max_age: float = math.inf
    ) -> AsyncIterator[Peer]:
        while (step := await self.script.get()) is not None:
            if isinstance(step, Exception):
                raise step
            yield step

    async def advertise(
        self, _keys: Collection[str], *, pulled: Mapping[str, float] = NOTHING
    ) -> None: ...
    async def withdraw(self, _keys: Collection[str]) -> None: ...
    async def ready(self) -> bool:
        return True


def candidates(
    router: ScriptedRouter,
    *,
    wait: float,
    found: list[float] | None = None,
    clock: Callable[[], float] = time.monotonic,
    further: Callable[[], Awaitable[bool]] | None = None,
) -> Candidates:
    return Candidates(
        router=router,
        key="k",
        limit=3,
        selector=PeerSelector(key="k", scores=Scores(), random=Random(1)),
        wait=wait,
        clock=clock,
        on_first=(found if found is not None else []).append,
        find_parent=further,
    )


async def next_of(found: Candidates) -> Peer | None:
    """Return the next peer to ask, after waiting for one."""
    await found.wait_for_peer()
    return found.take()


async def test_peers_are_given_while_the_lookup_goes_on() -> None:
    """The first peer is given before the second is found."""
    router = ScriptedRouter()
    router.script.put_nowait(A)
    async with candidates(router, wait=5) as found:
        assert await next_of(found) == A
        router.script.put_nowait(B)
        assert await next_of(found) == B


async def test_an_ended_lookup_is_not_waited_for() -> None:
    """A lookup that ends without a peer is known to be over at once."""
    router = ScriptedRouter()
    router.script.put_nowait(None)
    async with asyncio.timeout(1), candidates(router, wait=60) as found:
        assert await next_of(found) is None
        assert await next_of(found) is None


async def test_a_lookup_that_does_not_end_is_waited_for_briefly() -> None:
    """Without a peer within the wait there is none; a later peer may be asked later."""
    router = ScriptedRouter()
    async with candidates(router, wait=0.02) as found:
        assert await next_of(found) is None
        router.script.put_nowait(A)
        assert await next_of(found) == A


async def test_a_failing_router_is_an_empty_one() -> None:
    """A routing error ends the lookup: the client gets its 404, not an error."""
    router = ScriptedRouter()
    router.script.put_nowait(RouterUnavailable("gone"))
    async with asyncio.timeout(1), candidates(router, wait=60) as found:
        assert await next_of(found) is None


async def test_the_time_to_the_first_peer_is_told_once() -> None:
    """`on_first` is called for the first peer only."""
    router, told = ScriptedRouter(), list[float]()
    for step in (A, B, None):
        router.script.put_nowait(step)
    async with candidates(router, wait=5, found=told) as found:
        assert {await next_of(found), await next_of(found)} == {A, B}
    assert len(told) == 1
    assert told[0] >= 0


async def test_the_lookup_ends_with_the_pull() -> None:
    """Leaving the context stops a lookup that goes on."""
    router = ScriptedRouter()
    async with candidates(router, wait=0.01):
        pass
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("lookup")]


async def test_a_peer_that_came_while_the_loop_was_busy_is_not_lost() -> None:
    """If the loop is blocked beyond the deadline, a peer found before the deadline counts."""
    router, loop = ScriptedRouter(), asyncio.get_running_loop()
    async with candidates(router, wait=0.06) as found:
        loop.call_later(0.01, time.sleep, 0.2)
        loop.call_later(0.03, router.script.put_nowait, A)
        assert await next_of(found) == A


async def test_news_of_a_peer_that_came_before_it_was_waited_for_is_not_lost() -> None:
    """A wait for a change ends at once if there is a peer to take, and else when one comes."""
    router = ScriptedRouter()
    async with candidates(router, wait=5) as found, asyncio.timeout(5):
        router.script.put_nowait(A)
        assert await found.wait_for_peer()
        await found.wait_for_change()
        assert found.take() == A
        waiting = asyncio.create_task(found.wait_for_change())
        await asyncio.sleep(0)
        router.script.put_nowait(B)
        await waiting
        assert found.take() == B


async def test_who_came_meanwhile_is_found_before_one_goes_further_again() -> None:
    """The first lookup has just ended without a peer.

    Later a node may hold the content that was still on its way then.
    """
    router, now, further = ScriptedRouter(), [0.0], []

    async def go_further() -> bool:
        further.append(now[0])
        return False

    router.script.put_nowait(None)
    async with candidates(router, wait=1.0, clock=lambda: now[0], further=go_further) as found:
        assert await next_of(found) is None
        now[0] += 60
        router.script.put_nowait(A)
        router.script.put_nowait(None)
        assert await next_of(found) == A
        assert found.lookup.found == 1
    assert further == [0.0]


async def test_looking_again_offers_no_more_than_the_limit() -> None:
    """A pull tries a limited number of peers, whenever they are found.

    A recent lookup is not repeated.
    """
    router, now = ScriptedRouter(), [0.0]
    for step in (A, B, None, A, Peer("c", "10.0.0.3", 1), Peer("d", "10.0.0.4", 1), None):
        router.script.put_nowait(step)
    async with candidates(router, wait=1.0, clock=lambda: now[0]) as found:
        assert await found.count_within(1.0) == 2
        found.refresh()
        assert await found.count_within(1.0) == 2
        now[0] += 60
        found.refresh()
        assert await found.count_within(1.0) == 3
        assert {await next_of(found) for _ in range(4)} == {A, B, Peer("c", "10.0.0.3", 1), None}


async def test_who_came_while_a_body_was_under_way_is_found_when_it_breaks() -> None:
    """The lookup was made when the pull began.

    A while later another node may hold the content without announcing it to this pull.
    """
    router, now = ScriptedRouter(), [0.0]
    for step in (A, None, A, B, None):
        router.script.put_nowait(step)
    async with candidates(router, wait=1.0, clock=lambda: now[0]) as found:
        assert await next_of(found) == A
        assert await found.count_within(1.0) == 1
        now[0] += 60
        assert await next_of(found) == B
