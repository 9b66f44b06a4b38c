"""`configuration`, `cleanup` and `cleanup-wait` as an operator, a chart and a signal meet them."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

import spegel_py
from spegel_py.cli import main
from spegel_py.host import cleanup, cleanup_wait
from spegel_py.host.cleanup import Cleaned, clean_up, serve_probe
from spegel_py.host.cleanup_wait import wait
from spegel_py.host.disk_steps import Disk
from spegel_py.tools.runtime_token import read_tokens, write_tokens
from tests.support.processes import Process, until
from tests.support.routers import free_port

PATH = "--containerd-registry-config-path"


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave this process's logging and its settings alone."""
    monkeypatch.setattr("spegel_py.telemetry.logging.configure", lambda **_: None)
    for name in (
        "ADDR",
        "MIRROR_TARGETS",
        "MIRRORED_REGISTRIES",
        "PERIOD",
        "PROBE_ENDPOINT",
        "THRESHOLD",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["configuration"], "--mirror-targets (or MIRROR_TARGETS) is missing"),
        (
            ["configuration", "--mirror-targets", "127.0.0.1:5000"],
            "--mirror-targets: '127.0.0.1:5000' has no scheme",
        ),
        (
            [
                "configuration",
                "--mirror-targets",
                "http://a",
                "--mirrored-registries",
                "https://a/b",
            ],
            "--mirrored-registries: 'https://a/b' should be no more than a host",
        ),
        (["configuration", "--mirror-targets", "http://a", PATH, ""], f"{PATH}: it is empty"),
        (
            ["configuration", "--mirror-targets", "http://a", "--resolve-tags=maybe"],
            "--resolve-tags: 'maybe'",
        ),
        (["cleanup", "--addr", "8080"], "--addr: '8080' should be an address"),
        (["cleanup-wait"], "--probe-endpoint (or PROBE_ENDPOINT) is missing"),
        (
            ["cleanup-wait", "--probe-endpoint", "host"],
            "--probe-endpoint: 'host' should be a host and a port",
        ),
        (["cleanup-wait", "--probe-endpoint", "::1:80"], "--probe-endpoint: '::1:80' should be"),
        (["cleanup-wait", "--probe-endpoint", "a:1", "--threshold", "0"], "--threshold: '0'"),
        (["cleanup-wait", "--daemonset", "a"], "--daemonset: 'a' should be a namespace and a name"),
        (
            ["cleanup-wait", "--daemonset", "a/b", "--probe-endpoint", "a:1"],
            "--probe-endpoint and --daemonset are two ways to",
        ),
        (["cleanup-wait", "--daemonset", "a/b"], "--daemonset: no account of Kubernetes in"),
        (
            ["cleanup-wait", "--probe-endpoint", "a:1", "--period", "2"],
            "--period: '2' should be a duration",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_line_and_status_2(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing or wrong argument is named in one line on stderr."""
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"spegel-py: {named}")
    assert err.count("\n") == 1


def test_flags_and_environment_are_spegels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists come as several arguments or with commas, booleans with or without a value; flags
    win.
    """
    monkeypatch.setenv("CONTAINERD_REGISTRY_CONFIG_PATH", str(tmp_path / "certs.d"))
    monkeypatch.setenv("MIRROR_TARGETS", "http://127.0.0.1:30020,http://127.0.0.1:30021")
    monkeypatch.setenv("MIRRORED_REGISTRIES", "https://quay.io")
    monkeypatch.setenv("RESOLVE_TAGS", "true")
    registries = ["https://docker.io", "http://foo.bar:5000"]
    given = [
        "--log-level=INFO",
        "--mirrored-registries",
        *registries,
        "--resolve-tags=false",
        "--prepend-existing",
    ]
    assert main(["configuration", *given]) == 0
    folders = sorted(path.name for path in (tmp_path / "certs.d").iterdir())
    ours = ["_backup", "_spegel-py.made", "_spegel-py.written"]
    assert folders == [*ours, "docker.io", "foo.bar:5000"]
    text = (tmp_path / "certs.d" / "docker.io" / "hosts.toml").read_text()
    assert text.count("capabilities = ['pull']\n") == 2
    assert text.index("30020") < text.index("30021")


def test_a_folder_that_cannot_be_written_is_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error of the machine is one line with the path, and no traceback."""
    (tmp_path / "file").write_text("")
    assert (
        main(
            [
                "configuration",
                PATH,
                str(tmp_path / "file" / "certs.d"),
                "--mirror-targets",
                "http://127.0.0.1:9",
            ]
        )
        == 1
    )
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"{tmp_path}/file: Not a directory" in err


def test_each_configuration_makes_a_token_and_cleanup_removes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """hosts.toml has the newest one, and only its owner can read it; a dry run changes neither."""
    root, token = tmp_path / "certs.d", tmp_path / "data" / "token"
    given = [PATH, str(root), "--mirror-targets", "http://127.0.0.1:9"]
    given += ["--runtime-token", str(token)]
    hosts = root / "_default" / "hosts.toml"
    tokens: list[str] = []
    for _ in range(3):
        assert main(["configuration", *given]) == 0
        newest, *before = read_tokens(token)
        assert f"X-Spegel-Runtime = '{newest}'" in hosts.read_text()
        assert before == tokens[-1:]
        tokens.append(newest)
    assert hosts.stat().st_mode & 0o777 == 0o600
    capsys.readouterr()
    assert main(["configuration", *given, "--dry-run"]) == 0
    assert not any(each in capsys.readouterr().out for each in tokens)
    assert read_tokens(token)[0] == tokens[-1]
    assert main(["cleanup", PATH, str(root), "--runtime-token", str(token)]) == 0
    assert list(tmp_path.iterdir()) == [token.parent]
    assert list(token.parent.iterdir()) == []


def test_a_failed_configuration_keeps_the_tokens_that_hosts_toml_has(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    token = tmp_path / "token"
    write_tokens(token, ("a" * 64, "b" * 64))
    given = [PATH, str(tmp_path / "file" / "certs.d"), "--mirror-targets", "http://127.0.0.1:9"]
    assert main(["configuration", *given, "--runtime-token", str(token)]) == 1
    assert read_tokens(token) == ("a" * 64, "b" * 64)


def test_without_a_probe_cleanup_puts_back_and_ends(tmp_path: Path) -> None:
    """On a plain host `cleanup` needs nobody to end it."""
    root = tmp_path / "certs.d"
    assert main(["configuration", PATH, str(root), "--mirror-targets", "http://127.0.0.1:9"]) == 0
    assert main(["cleanup", PATH, str(root), "--addr", ""]) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_link_for_config_path_is_followed(tmp_path: Path) -> None:
    """Where config_path is a link, the folder behind it is changed, and the link stays; a circle is
    named.
    """
    (tmp_path / "behind").mkdir()
    link, circle = tmp_path / "link", tmp_path / "circle"
    link.symlink_to("behind")
    circle.symlink_to("circle")
    assert main(["configuration", PATH, str(link), "--mirror-targets", "http://127.0.0.1:9"]) == 0
    names = sorted(path.name for path in (tmp_path / "behind").iterdir())
    assert names == ["_backup", "_default", "_spegel-py.written"]
    assert main(["cleanup", PATH, str(link), "--addr", ""]) == 0
    assert link.is_symlink()
    assert list(link.iterdir()) == []
    assert main(["configuration", PATH, str(circle), "--mirror-targets", "http://127.0.0.1:9"]) == 2


async def test_cleanup_serves_its_probe_until_sigterm(tmp_path: Path) -> None:
    """The probe answers once all is put back; SIGTERM ends it with status 0, and a second node's
    wait saw it.
    """
    root, port = tmp_path / "certs.d", free_port()
    root.mkdir()
    (root / "hello.txt").write_text("hello")
    (root / "_backup").mkdir()
    (root / "_backup" / "data.txt").write_text("data")
    running = process(tmp_path, "cleanup", PATH, str(root), "--addr", f":{port}")

    async def answers() -> bool:
        return await status(port, "GET", "/readyz") == 200

    await running.start(answers)
    assert [path.name for path in root.iterdir()] == ["data.txt"]
    assert [
        await status(port, *ask) for ask in (("GET", "/"), ("POST", "/readyz"), ("POST", "/"))
    ] == [200, 200, 404]
    await asyncio.wait_for(wait(("localhost", port), threshold=3, period=0.01), 20)
    assert await ended_by_sigterm(running) == 0


async def test_nothing_configures_the_folder_while_it_is_cleaned_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the probe is served, and for `--linger` after SIGTERM, `configuration` fails and
    says why.

    The folder is put back if Spegel, which heeds no lock, has configured it. At last the folder is
    free.
    """
    monkeypatch.setattr("spegel_py.host.host_files.LOCK_DEADLINE", 0.1)
    root, port = tmp_path / "certs.d", free_port()
    root.mkdir()
    (root / "docker.io").mkdir()
    (root / "docker.io" / "hosts.toml").write_text("hello")
    running = process(tmp_path, "cleanup", PATH, str(root), "--addr", f":{port}", "--linger", "2s")

    async def answers() -> bool:
        return await status(port, "GET", "/readyz") == 200

    async def is_as_before() -> bool:
        return [path.name for path in root.iterdir()] == ["docker.io"]

    async def configure() -> int:
        return await asyncio.to_thread(
            main, ["configuration", PATH, str(root), "--mirror-targets", "http://127.0.0.1:9"]
        )

    await running.start(answers)
    assert await configure() == 1
    assert "kept clean while a release is uninstalled" in capsys.readouterr().err
    (root / "_backup").mkdir()
    (root / "docker.io").rename(root / "_backup" / "docker.io")
    (root / "quay.io").mkdir()
    await until(is_as_before, deadline=30.0)
    running.send(signal.SIGTERM)
    assert await configure() == 1
    assert await is_as_before()
    assert running.pid is not None
    assert await ended_by_sigterm(running) == 0
    assert await configure() == 0


async def test_the_last_look_is_at_the_very_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that is configured again between two looks does not stay so."""
    backup = tmp_path / "_backup"
    backup.mkdir()
    calls: list[Path] = []
    told: list[Cleaned] = []

    def put_back(root: Path, disk: Disk, *, is_locked: bool) -> Cleaned:
        calls.append(root)
        cleaned = clean_up(root, disk, is_locked=is_locked)
        if len(calls) == 1:
            backup.mkdir()
        return cleaned

    monkeypatch.setattr(cleanup, "clean_up", put_back)
    is_ended = asyncio.Event()
    is_ended.set()
    await asyncio.wait_for(
        cleanup._keep_clean(tmp_path, is_ended, linger=0.01, tell=told.append), 20
    )
    assert [one.root for one in told] == calls
    assert len(calls) == 2
    assert not backup.exists()


def test_a_probe_port_in_use_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A taken port is an error that says that the rest is done."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["cleanup", PATH, str(tmp_path), "--addr", address]) == 2
    assert f"--addr: cannot listen on {address}: " in capsys.readouterr().err


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0", ":0"])
async def test_the_probe_listens_where_it_is_told(address: str) -> None:
    """An address of either family, or none for both."""
    async with serve_probe(address) as port:
        await asyncio.wait_for(
            wait(("::1" if "::1" in address else "127.0.0.1", port), threshold=1, period=1), 20
        )


@asynccontextmanager
async def node(address: str, port: int, answers: list[int]) -> AsyncIterator[None]:
    """Answer probes with these statuses, then with 200."""

    async def probe(request: web.Request) -> web.Response:
        assert request.path == "/readyz"
        return web.Response(status=answers.pop(0) if answers else 200)

    app = web.Application()
    app.router.add_route("GET", "/{path:.*}", probe)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, address, port).start()
    try:
        yield
    finally:
        await runner.cleanup()


async def test_every_address_must_answer_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bad answer of one node begins the count anew, for all addresses of a headless service."""
    port = free_port()
    service(monkeypatch, "127.0.0.1", "127.0.0.2", "::1")
    good: list[int] = []
    mixed = [200, 500, 404, 200]
    async with (
        node("127.0.0.1", port, good),
        node("127.0.0.2", port, mixed),
        node("::1", port, list(good)),
    ):
        await asyncio.wait_for(wait(("cleanup.spegel.svc", port), threshold=3, period=0.001), 20)
    assert mixed == []


async def test_it_waits_for_a_node_that_is_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused connections, and names without an address, are asked again."""
    port = free_port()
    names = service(monkeypatch)
    waiting = asyncio.create_task(wait(("cleanup.spegel.svc", port), threshold=2, period=0.01))
    await rounds(names, 3)
    names.addresses = ["127.0.0.1"]
    await rounds(names, 3)
    assert not waiting.done()
    async with node("127.0.0.1", port, []):
        await asyncio.wait_for(waiting, 20)


async def test_a_node_that_never_answers_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that is accepted and not answered ends after its deadline, and does not hold up the
    end.
    """
    monkeypatch.setattr(cleanup_wait, "PROBE_TIMEOUT", 0.05)
    names = service(monkeypatch, "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        waiting = asyncio.create_task(
            wait(("name", silent.getsockname()[1]), threshold=1, period=0.01)
        )
        await rounds(names, 3)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_a_resolver_that_hangs_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lookup without an end has a deadline, and its thread does not keep the process."""
    monkeypatch.setattr(cleanup_wait, "LOOKUP_TIMEOUT", 0.05)
    release = threading.Event()
    asked: list[float] = []

    def hang(*_: object, **__: object) -> list[object]:
        asked.append(time.monotonic())
        release.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    waiting = asyncio.create_task(wait(("name", 1), threshold=1, period=0.01))
    await until(lambda: _is(len(asked) > 2))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "look up name")
    release.set()


async def test_cleanup_wait_ends_with_status_0_and_130(tmp_path: Path) -> None:
    """It ends by itself once the threshold is reached, and with 130 when it is told to end
    before.
    """
    port = free_port()
    flags = ("--probe-endpoint", f"127.0.0.1:{port}", "--threshold", "2", "--period", "10ms")
    early = process(tmp_path, "cleanup-wait", *flags)

    async def has_probed() -> bool:
        return "probed" in early.output

    await early.start(has_probed)
    assert await ended_by_sigterm(early) == 130
    assert "stopped before every node was clean" in early.output
    assert "Traceback" not in early.output
    async with node("127.0.0.1", port, [500]):
        late = process(tmp_path, "cleanup-wait", *flags)
        await late.start(lambda: _is("probed" in late.output))
        running = late._process
        assert running
        assert await asyncio.wait_for(running.wait(), 20) == 0


@pytest.mark.parametrize("given", [None, "", "none"], ids=["not set", "empty", "none"])
def test_cleanup_without_an_address_puts_back_and_ends(
    given: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a person expects; a variable that templates leave empty is the same."""
    if given is not None:
        monkeypatch.setenv("ADDR", given)
    root = tmp_path / "certs.d"
    assert main(["configuration", PATH, str(root), "--mirror-targets", "http://127.0.0.1:9"]) == 0
    assert main(["cleanup", PATH, str(root)]) == 0
    assert not root.exists()


class Names:
    """A name service; `addresses` are what any name stands for."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.asked = 0

    def __call__(self, host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        self.asked += 1
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(None, None, None, "", (address, port)) for address in self.addresses]


def service(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> Names:
    names = Names(*addresses)
    monkeypatch.setattr(socket, "getaddrinfo", names)
    return names


async def rounds(names: Names, count: int) -> None:
    target = names.asked + count
    await until(lambda: _is(names.asked >= target))


async def _is(value: bool) -> bool:
    return value


async def status(port: int, method: str, path: str) -> int:
    def ask() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request(method, path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


def process(folder: Path, *arguments: str) -> Process:
    return Process(
        command=[sys.executable, "-m", "spegel_py", *arguments],
        log=folder / f"{arguments[0]}.log",
        environment={"PYTHONPATH": str(Path(spegel_py.__file__).parent.parent)},
    )


async def ended_by_sigterm(running: Process) -> int:
    inner = running._process
    assert inner
    os.kill(inner.pid, signal.SIGTERM)
    return await asyncio.wait_for(inner.wait(), 20)
