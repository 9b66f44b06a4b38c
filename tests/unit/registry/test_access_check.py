"""Requests to registries over TLS, as hosts.toml says, and to registries that misbehave."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import web

from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import Kind, PullRequest
from spegel_py.registry import access_check
from spegel_py.registry.access_check import AccessCheck
from tests.support.hosts import make_certificate

SECRET = "Basic c2VjcmV0"


def check(registry: str, hosts: Path | None = None, *, is_plain: bool = False) -> AccessCheck:
    listed = frozenset({registry})
    return AccessCheck(hosts=hosts, listed=listed, plain=listed if is_plain else frozenset())


def pull(registry: str) -> PullRequest:
    return PullRequest(
        head=True, kind=Kind.BLOB, registry=registry, repository="a/b", reference=Digest.of(b""),
        accept=("text/plain", "*/*"),
    )  # fmt: skip


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[str, Path]]:
    """A registry with a certificate of its own, by its name, and the certificate."""

    async def answer(request: web.Request) -> web.Response:
        assert request.headers["Accept"] == "text/plain, */*"
        is_known = request.headers.get("Authorization") == SECRET
        return web.Response(status=200 if is_known else 401)

    certificate, key = await asyncio.to_thread(make_certificate, tmp_path, "registry.test")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    yield f"registry.test:{runner.addresses[0][1]}", certificate
    await runner.cleanup()


@pytest.mark.parametrize("given", ["none", "ca", "skip_verify", "wrong ca"])
async def test_the_certificate_is_checked_as_containerd_checks_it(
    server: tuple[str, Path], tmp_path: Path, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its authority the registry gets no credentials."""
    registry, certificate = server
    folder = tmp_path / "certs.d" / registry
    folder.mkdir(parents=True)
    lines = {"ca": f"ca = '{certificate}'", "skip_verify": "skip_verify = true"}
    lines["wrong ca"] = "ca = 'missing.crt'"
    (folder / "hosts.toml").write_text(lines.get(given, ""))
    monkeypatch.setattr(
        "socket.getaddrinfo",
        lambda host, port, *_, **__: [(2, 1, 6, "", ("127.0.0.1", port))],
    )
    made = check(registry, tmp_path / "certs.d")
    answer = await made.head(pull(registry), SECRET)
    assert answer.status == (200 if given in ("ca", "skip_verify") else None)
    assert (registry in made.faults) is (answer.status is None)
    assert all(SECRET not in text and "\n" not in text for text in made.faults.values())


@asynccontextmanager
async def raw(answer: bytes | None) -> AsyncIterator[str]:
    """A server that says this to everybody, or nothing."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        if answer is not None:
            writer.write(answer)
            writer.close()

    writers: list[asyncio.StreamWriter] = []
    serving = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with serving:
        yield f"127.0.0.1:{serving.sockets[0].getsockname()[1]}"
        for writer in writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"\x16\x03\x01" + b"\0" * 100,
    ],
    ids=["nothing", "no HTTP", "many headers", "long header", "TLS"],
)
async def test_a_registry_that_does_not_speak_http_is_away(answer: bytes) -> None:
    async with raw(answer) as registry:
        made = check(registry, is_plain=True)
        assert (await made.head(pull(registry), SECRET)).status is None
        assert registry in made.faults


async def test_a_registry_that_says_nothing_is_away_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_check, "TIMEOUT", 0.2)
    async with raw(None) as registry:
        made, began = check(registry, is_plain=True), time.monotonic()
        assert (await made.challenge(registry)).status is None
        assert time.monotonic() - began < 1.5
        assert "no answer" in made.faults[registry]


async def test_credentials_that_are_no_header_reach_nobody() -> None:
    """aiohttp refuses a line break; the registry counts as away."""
    async with raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as registry:
        made = check(registry, is_plain=True)
        assert (await made.head(pull(registry), "Basic a\r\nX-Evil: 1")).status is None
        assert registry in made.faults


async def test_a_registry_that_gave_no_answer_is_asked_again_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pull of many parts does not wait for each."""
    now, asked = [0.0], 0

    async def send(*_: object) -> None:
        nonlocal asked
        asked += 1
        raise OSError("no route to host")

    registry = "registry.example"
    made = AccessCheck(hosts=None, clock=lambda: now[0])
    monkeypatch.setattr(made, "_send", send)
    for seconds, times in ((0.0, 1), (9.9, 1), (10.0, 2)):
        now[0] = seconds
        assert (await made.head(pull(registry), SECRET)).status is None
        assert asked == times
    assert made.faults == {registry: "no route to host"}
