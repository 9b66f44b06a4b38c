"""Each mirror is asked once, and its answer, absence or silence is logged."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from spegel_py.cli import main
from spegel_py.host.configuration import ask_mirrors, log_answers
from spegel_py.host.http_probe import MirrorAnswer, ask_mirror
from tests.support.routers import free_port


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have mirrors answer within a moment; leave this process's logging alone."""
    monkeypatch.setattr("spegel_py.host.http_probe.MIRROR_TIMEOUT", 0.3)
    monkeypatch.setattr("spegel_py.telemetry.logging.configure", lambda **_: None)


@contextmanager
def silent() -> Iterator[str]:
    """Take connections, and answer none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def dropping() -> Iterator[str]:
    """Accept no connection: the listen queue is full, so the kernel drops every further SYN."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as stack:
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


async def answering(text: bytes) -> tuple[asyncio.Server, str]:
    """Serve these bytes to everybody, piece by piece without an end if there are none."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if not text:
            writer.write(b"HTTP/1.1 200 OK\r\n")
        try:
            while not text:
                writer.write(b"A: b\r\n")
                await writer.drain()
                await asyncio.sleep(0.05)
            writer.write(text)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


OURS = b"HTTP/1.1 200 OK\r\nServer: spegel-py/0.1.0\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        pytest.param(
            OURS, MirrorAnswer("200 from spegel-py/0.1.0", is_up=True, is_spegel=True), id="ours"
        ),
        pytest.param(
            OURS.replace(b"200", b"403").replace(b"Server", b"X"),
            MirrorAnswer("403 from a server without a name", is_up=True),
            id="another",
        ),
        pytest.param(
            b"",
            MirrorAnswer("takes connections, but gives no answer within 0.3 s", is_silent=True),
            id="head without an end",
        ),
        pytest.param(b"SSH-2.0\r\n", MirrorAnswer("SSH-2.0\r\n"), id="no HTTP"),
    ],
)
async def test_an_answer_is_told(text: bytes, seen: MirrorAnswer) -> None:
    """The answer names its server; an endless answer counts as none."""
    server, url = await answering(text)
    async with server:
        assert await ask_mirror(url) == seen


async def test_how_far_it_came_is_told() -> None:
    """Refused, packets dropped, taken and not answered are three things: containerd goes on at
    once, or waits.
    """
    with silent() as deaf, dropping() as dropped:
        refused, hung, unanswered = await asyncio.gather(
            ask_mirror(f"http://127.0.0.1:{free_port()}"), ask_mirror(dropped), ask_mirror(deaf)
        )
    assert refused == MirrorAnswer("Connection refused", is_refused=True)
    assert hung == MirrorAnswer("takes no connection within 0.3 s", is_silent=True)
    assert unanswered == MirrorAnswer(
        "takes connections, but gives no answer within 0.3 s", is_silent=True
    )


async def logged(*targets: str) -> list[dict[str, Any]]:
    with capture_logs() as logs:
        log_answers(await ask_mirrors(targets))
    return [dict(one) for one in logs]


async def test_configuration_says_how_mirrors_answer() -> None:
    """A mirror that is not running yet is no warning, a silent one is; each mirror is named."""
    server, ours = await answering(OURS)
    nobody = f"http://127.0.0.1:{free_port()}"
    async with server:
        with silent() as deaf:
            logs = await logged(ours, nobody, deaf, "http://mirror.invalid:5000")
    assert [(one["mirror"], one["log_level"], one["event"]) for one in logs] == [
        (ours, "info", "the mirror answers"),
        (nobody, "info", "no mirror listens there yet"),
        (deaf, "warning", "the mirror does not answer"),
        ("http://mirror.invalid:5000", "warning", "the mirror does not answer"),
    ]
    assert all(one["remedy"] for one in logs[1:])


def test_a_silent_mirror_does_not_end_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are written, and the exit status is 0."""
    monkeypatch.setenv("LOG_FORMAT", "json")
    root = tmp_path / "certs.d"
    with silent() as deaf, capture_logs() as logs:
        given = ["--containerd-registry-config-path", str(root), "--mirror-targets", deaf]
        assert main(["configuration", *given]) == 0
    assert deaf in (root / "_default" / "hosts.toml").read_text()
    assert [one["event"] for one in logs] == [
        "mirror added",
        "containerd is configured",
        "the mirror does not answer",
    ]
