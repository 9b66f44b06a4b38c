"""Whether a registry is there: real sockets for the probe, and a clock of the test's own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from spegel_py.mirror import registry_reach
from spegel_py.mirror.registry_reach import (
    AWAY,
    MAX_CHECKS,
    REACHED,
    RegistryReach,
    answers,
)
from spegel_py.tools.threads import run


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def _registry(status: int) -> AsyncIterator[str]:
    """Serve this status at `/v2/` over plain HTTP; yields host and port."""

    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=status if request.path == "/v2/" else 404)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "is_there"), [(200, True), (401, True), (404, True), (500, False), (503, False)]
)
async def test_a_registry_answers_with_any_status_but_an_error_of_its_own(
    status: int, is_there: bool
) -> None:
    async with _registry(status) as registry:
        assert await run(answers, registry) is is_there


async def test_a_registry_without_a_listener_does_not_answer() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        assert not await run(answers, f"127.0.0.1:{one.getsockname()[1]}")


async def test_a_registry_that_hangs_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_reach, "TIMEOUT", 0.1)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        assert not await run(answers, f"127.0.0.1:{one.getsockname()[1]}")


@pytest.mark.parametrize("registry", ["registry.invalid", "registry.invalid:5000", "[::1]:1"])
async def test_an_unknown_name_does_not_answer(registry: str) -> None:
    assert not await run(answers, registry)


@pytest.mark.parametrize(("is_there", "lasts"), [(True, REACHED), (False, AWAY)])
async def test_an_answer_counts_for_a_while(is_there: bool, lasts: float) -> None:
    asked, clock = [], _Clock()

    def probe(registry: str) -> bool:
        asked.append(registry)
        return is_there

    reach = RegistryReach(probe=probe, clock=clock)
    for _ in range(3):
        assert await reach.is_away("r.io") is not is_there
    clock.now += lasts - 1
    await reach.is_away("r.io")
    assert asked == ["r.io"]
    clock.now += 2
    await reach.is_away("r.io")
    assert asked == ["r.io", "r.io"]


async def test_a_registry_is_asked_once_for_many_pulls() -> None:
    asked = []

    def probe(registry: str) -> bool:
        asked.append(registry)
        return False

    reach = RegistryReach(probe=probe)
    assert await asyncio.gather(*(reach.is_away("r.io") for _ in range(20))) == [True] * 20
    assert asked == ["r.io"]


async def test_a_pull_that_is_given_up_does_not_end_the_check() -> None:
    reach = RegistryReach(probe=lambda registry: False)
    first = asyncio.create_task(reach.is_away("r.io"))
    second = asyncio.create_task(reach.is_away("r.io"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second


async def test_of_too_many_registries_the_last_ones_count_as_there() -> None:
    """Names that a stranger makes up must not keep a thread each."""
    reach = RegistryReach(probe=lambda registry: False)
    found = await asyncio.gather(
        *(reach.is_away(f"r{number}.io") for number in range(MAX_CHECKS + 3))
    )
    assert found == [True] * MAX_CHECKS + [False] * 3


async def test_a_probe_that_never_ends_counts_as_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_reach, "TIMEOUT", 0.05)
    never = asyncio.Event()
    loop = asyncio.get_running_loop()

    def probe(registry: str) -> bool:
        return bool(asyncio.run_coroutine_threadsafe(never.wait(), loop).result())

    assert await RegistryReach(probe=probe).is_away("r.io")
    never.set()
