"""The doctor's facts: configuration files, hosts.toml, a running node, and things that hang."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web

from spegel_py.cli import main
from spegel_py.errors import ConfigError
from spegel_py.host.configuration import configure
from spegel_py.host.doctor import (
    Level,
    Subject,
    config_file,
    examine,
    hosts_files,
    node_queries,
    warn,
)
from spegel_py.host.doctor.facts import Facts, NodeState, PeerState, Pull, Unknown
from spegel_py.host.host_files import MAX_TEXT
from spegel_py.oci.digest import Digest
from spegel_py.oci.reference import Reference
from spegel_py.registry.server import serve
from tests.support.host_trees import make_rich, mirroring, quick

STATE = {
    "version": "0.1.0",
    "id": "12D3A",
    "uptime_seconds": 12.5,
    "ready": True,
    "reason": None,
    "tasks": 9,
    "descriptors": 40,
    "peers": [
        {
            "id": "12D3B",
            "address": "10.0.0.2:5000",
            "agent": "spegel-py/0.1.0",
            "keys": 4,
            "heard_seconds": 0.5,
            "skew_seconds": 3.5,
        }
    ],
    "advertised": {"tags": 2, "digests": 30},
}
NODE = NodeState(version="1", uptime=1.0, ready=True, reason=None, peers=(), tags=0, digests=0)
REFERENCE = Reference.parse("registry.example:5000/team/app:1")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    """A machine on which nothing is there, and nothing listens."""
    return Subject(
        socket=tmp_path / "c.sock",
        namespace="k8s.io",
        content_path=tmp_path / "content",
        containerd_config=tmp_path / "config.toml",
        registry="http://127.0.0.1:9",
        metrics="http://127.0.0.1:9",
        certs=tmp_path / "certs.d",
    )


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    """Serve every path with one handler; gives the URL."""
    app = web.Application()
    app.router.add_get("/{tail:.*}", handler)
    async with serve(app, "127.0.0.1:0", drain=0.1) as port:
        yield f"http://127.0.0.1:{port}"


def answering(body: bytes = b"", *, status: int = 200, server: str = "spegel-py") -> Handler:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(body=body, status=status, headers={"Server": server})

    return handler


# containerd's configuration

VERSION_2 = """\
version = 2
[plugins."io.containerd.grpc.v1.cri".containerd]
discard_unpacked_layers = true
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "/two"
"""
VERSION_3 = """\
version = 3
[plugins."io.containerd.cri.v1.images"]
discard_unpacked_layers = true
use_local_image_pull = true
[plugins."io.containerd.cri.v1.images".registry]
config_path = "/three"
"""
VERSION_1 = """\
[plugins.cri.registry]
config_path = "/one"
[plugins.cri.registry.mirrors."docker.io"]
endpoint = ["https://mirror.example"]
"""


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        pytest.param(VERSION_1, (1, "/one", False, True, False), id="version 1"),
        pytest.param(VERSION_2, (2, "/two", True, False, False), id="version 2"),
        pytest.param(VERSION_3, (3, "/three", True, False, True), id="version 3"),
        pytest.param(
            VERSION_3.replace("= 3", "= 4"), (4, "/three", True, False, True), id="version 4"
        ),
        pytest.param("version = 3\n", (3, "", False, False, False), id="nothing set"),
        pytest.param(
            'version = 3\nplugins = "no"\nimports = "no"\n',
            (3, "", False, False, False),
            id="odd values",
        ),
    ],
)
def test_the_file_of_each_version_is_read(tmp_path: Path, text: str, seen: tuple[Any, ...]) -> None:
    """The tables have other names up to version 2."""
    (tmp_path / "config.toml").write_text(text)
    found = config_file.read(tmp_path / "config.toml")
    images = found.images
    assert seen == (
        *(found.version, images.config_path, images.discards_layers),
        *(images.has_mirrors, images.pulls_locally),
    )


def test_imports_are_merged_over_the_file(tmp_path: Path) -> None:
    """By name and by pattern, relative and absolute, in any version, once each; empty values change
    nothing.
    """
    (tmp_path / "conf.d").mkdir()
    imports = f'imports = ["conf.d/*.toml", "{tmp_path}/last.toml", "config.toml"]\n'
    (tmp_path / "config.toml").write_text(imports + VERSION_2)
    (tmp_path / "conf.d" / "a.toml").write_text(VERSION_3.replace("= true", "= false"))
    (tmp_path / "last.toml").write_text("version = 3\n")
    found = config_file.read(tmp_path / "config.toml")
    assert (found.version, found.images.config_path) == (2, "/three")
    assert found.images.discards_layers


@pytest.mark.parametrize(("text", "said"), [(None, "No such file"), ("version = ", "is not TOML")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text: str | None, said: str) -> None:
    """Missing, or no TOML."""
    if text is not None:
        (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        config_file.read(tmp_path / "config.toml")


# hosts.toml files


def write_hosts(root: Path, name: str, text: str | None) -> Path:
    """Write `<name>/hosts.toml`, or the folder alone."""
    (root / name).mkdir(parents=True)
    if text is not None:
        (root / name / "hosts.toml").write_text(text)
    return root / name / "hosts.toml"


ONE_HOST = "[host.'http://127.0.0.1:5000']\ncapabilities = ['pull']\n"


def test_the_folder_is_found_as_containerd_finds_it(tmp_path: Path) -> None:
    """The order is `host_port_`, `host:port`, default; the first root with any of them counts."""
    first, second = tmp_path / "first", tmp_path / "second"
    under, plain = write_hosts(first, "a_5000_", ONE_HOST), write_hosts(first, "b:5000", ONE_HOST)
    write_hosts(first, "a:5000", ONE_HOST)
    write_hosts(second, "b:5000", ONE_HOST)
    write_hosts(first, "certs.example", None)
    default = write_hosts(second, "_default", ONE_HOST)
    names = ["a:5000", "https://b:5000", "certs.example", "docker.io"]
    read = hosts_files.read([first, second, tmp_path / "missing"], names)
    assert [one.registry for one in read if not one.is_asked] == ["_default"]
    found = [one for one in read if one.is_asked]
    assert [(one.registry, one.path) for one in found] == [
        *(("a:5000", under), ("b:5000", plain), ("certs.example", None), ("docker.io", default))
    ]


def test_without_registries_the_default_and_those_beside_it_are_looked_at(tmp_path: Path) -> None:
    """A backup is no registry, and an absent default is told."""
    write_hosts(tmp_path, "a_5000_", ONE_HOST)
    write_hosts(tmp_path, "_backup", None)
    found = hosts_files.read([tmp_path], [])
    assert [(one.registry, one.is_asked) for one in found] == [
        ("_default", True),
        ("a:5000", False),
    ]
    assert found[0].path is None


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        pytest.param(ONE_HOST, [("http://127.0.0.1:5000", {"pull"})], id="capabilities"),
        pytest.param(
            "[host.'m.example']",
            [("https://m.example", {"pull", "resolve", "push"})],
            id="defaults",
        ),
        pytest.param("server = 'https://x'", [], id="no host"),
        pytest.param("host = 3", [], id="host is no table"),
        pytest.param(
            "[host]\n'http://h' = 1",
            [("http://h", {"pull", "resolve", "push"})],
            id="a host is no table",
        ),
    ],
)
def test_hosts_are_read_with_their_capabilities(tmp_path: Path, text: str, seen: list[Any]) -> None:
    """A host without capabilities has every capability, and one without a scheme uses https."""
    write_hosts(tmp_path, "_default", text)
    [found] = hosts_files.read([tmp_path], [])
    assert [(one.url, one.capabilities) for one in found.mirrors] == seen


def test_a_hosts_file_that_is_no_toml_is_told(tmp_path: Path) -> None:
    """containerd fails every pull of that registry."""
    write_hosts(tmp_path, "_default", "[host")
    [found] = hosts_files.read([tmp_path], [])
    assert found.problem


@pytest.mark.parametrize(
    "text", ["#" * (MAX_TEXT + 1), "a = " + "[" * 20000], ids=["large", "nested"]
)
def test_a_file_that_is_too_much_is_told(tmp_path: Path, text: str) -> None:
    """Neither hosts.toml nor containerd's own file is read without an end."""
    path = write_hosts(tmp_path, "_default", text)
    [found] = hosts_files.read([tmp_path], [])
    assert found.problem
    with pytest.raises(ConfigError, match="is not TOML"):
        config_file.read(path)


def test_no_folder_at_all_is_an_error(tmp_path: Path) -> None:
    """Each one is named; no root is an error too."""
    with pytest.raises(ConfigError, match=r"/a cannot be read.*/b cannot be read"):
        hosts_files.read([tmp_path / "a", tmp_path / "b"], [])
    with pytest.raises(ConfigError, match="there is no folder"):
        hosts_files.read([], [])


@pytest.mark.parametrize(
    ("registries", "names"),
    [
        pytest.param([], ("docker.io", "ghcr.io", "registry.example:5000"), id="none named"),
        pytest.param(["https://docker.io"], ("ghcr.io", "registry.example:5000"), id="one named"),
        pytest.param(
            ["*", "https://docker.io", "https://ghcr.io", "http://registry.example:5000"],
            (),
            id="all named",
        ),
    ],
)
def test_registries_whose_settings_are_set_aside_are_found(
    tmp_path: Path, registries: list[str], names: tuple[str, ...]
) -> None:
    """A folder counts that says something to containerd, and of which the present folder does not
    say all.
    """
    make_rich(tmp_path)
    (tmp_path / "quay.io").unlink()
    assert hosts_files.set_aside(tmp_path) == ()
    configure(tmp_path, mirroring(*registries, keeps_existing=True), quick())
    assert hosts_files.set_aside(tmp_path) == names


async def test_hosts_are_asked_who_they_are(tmp_path: Path) -> None:
    """spegel-py is recognised by its header, also behind basic auth; others are named."""
    async with served(answering(status=401)) as ours, served(answering(server="nginx")) as other:
        urls = (ours, f"{other}/v2", "http://127.0.0.1:9", "http://[bad")
        write_hosts(tmp_path, "_default", "".join(f"[host.'{url}']\n" for url in urls))
        [found] = await hosts_files.asked(hosts_files.read([tmp_path], []))
    assert [one.is_spegel for one in found.mirrors] == [True, False, False, False]
    answers = [one.answer for one in found.mirrors]
    assert answers[:3] == ["401 from spegel-py", "200 from nginx", "Connection refused"]
    assert "URL" in answers[3]
    assert not any(one.is_silent for one in found.mirrors)


async def test_a_host_that_takes_connections_and_never_answers_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request has a deadline; a silent host differs from a missing one."""
    monkeypatch.setattr("spegel_py.host.http_probe.MIRROR_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        write_hosts(tmp_path, "_default", f"[host.'http://127.0.0.1:{server.getsockname()[1]}']\n")
        [found] = await hosts_files.asked(hosts_files.read([tmp_path], []))
    [mirror] = found.mirrors
    assert (mirror.is_silent, mirror.answer) == (
        True,
        "takes connections, but gives no answer within 0.3 s",
    )


# The running node


async def test_the_state_of_the_node_is_read() -> None:
    """As the metrics page gives it."""
    async with served(answering(json.dumps(STATE).encode())) as url:
        state = await node_queries.state(url, timeout=5.0)
    assert isinstance(state, NodeState)
    assert (state.version, state.uptime, state.tags, state.digests) == ("0.1.0", 12.5, 2, 30)
    assert [(peer.id, peer.skew) for peer in state.peers] == [("12D3B", 3.5)]


async def test_peers_are_asked_for_their_time() -> None:
    """The Date of any response counts; a peer without one, or without a response, is not judged."""

    async def late(_request: web.Request) -> web.Response:
        return web.Response(status=500, headers={"Date": formatdate(time.time() + 3600)})

    async def odd(_request: web.Request) -> web.Response:
        return web.Response(headers={"Date": "soon"})

    async with served(answering()) as right, served(late) as wrong, served(odd) as strange:
        addresses = [
            url.removeprefix("http://") for url in (right, wrong, strange, "http://127.0.0.1:9")
        ] + [""]
        peers = tuple(
            PeerState(str(number), address, 0.0) for number, address in enumerate(addresses)
        )
        found = await node_queries.dated(replace(NODE, peers=peers), timeout=5.0)
    dates = [peer.date for peer in found.peers]
    assert dates[0] == pytest.approx(0.0, abs=1.0)
    assert dates[1] == pytest.approx(3600.0, abs=1.0)
    assert dates[2:] == [None, None, None]


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        pytest.param(answering(status=404), "answers 404", id="no such page"),
        pytest.param(answering(b"<html>"), "cannot be read", id="no JSON"),
        pytest.param(answering(b"{}"), "cannot be read", id="keys missing"),
        pytest.param(answering(b"[]"), "cannot be read", id="no object"),
    ],
)
async def test_a_strange_state_is_unknown(handler: Handler, said: str) -> None:
    """Another program on the port, or an older node."""
    async with served(handler) as url:
        state = await node_queries.state(url, timeout=5.0)
    assert isinstance(state, Unknown)
    assert said in state.reason


async def test_a_manifest_is_pulled_as_containerd_does(subject: Subject) -> None:
    """By digest, with ns percent-encoded and the credentials; the bytes are verified."""
    seen: list[tuple[str, str | None]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.raw_path, request.headers.get("Authorization")))
        return web.Response(body=b"{}")

    async with served(handler) as url:
        asked = replace(subject, registry=url, authorization="Basic eDp5")
        right = await node_queries.pull(asked, REFERENCE, Digest.of(b"{}"), timeout=5.0)
        wrong = await node_queries.pull(asked, REFERENCE, Digest.of(b"[]"), timeout=5.0)
    assert isinstance(right, Pull)
    assert isinstance(wrong, Pull)
    assert (right.status, right.size, right.is_right, wrong.is_right) == (200, 2, True, False)
    path = f"/v2/team/app/manifests/{Digest.of(b'{}')}?ns=registry.example%3A5000"
    assert seen[0] == (path, "Basic eDp5")


async def test_the_runtimes_port_is_asked_where_it_should_be_closed(subject: Subject) -> None:
    """Whatever answers there, a 403 too, shows that others reach the port."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=403)

    async with served(handler) as url:
        asked = replace(subject, runtime_addr=":5002", closed_at=(url, "http://127.0.0.1:9"))
        found = [one for one in await examine(asked) if one.check == "runtime_addr"]
    assert [(one.level, one.text.startswith(f"{url} answers (403")) for one in found] == [
        (Level.ERROR, True)
    ]


async def test_a_node_that_is_not_there_is_unknown(subject: Subject) -> None:
    """Both questions name the address and what happened."""
    state = await node_queries.state("http://127.0.0.1:9", timeout=5.0)
    pull = await node_queries.pull(subject, REFERENCE, Digest.of(b""), timeout=5.0)
    assert state == Unknown("no node answers at http://127.0.0.1:9: Connection refused")
    assert pull == Unknown("http://127.0.0.1:9: Connection refused")


# All of it


async def test_a_machine_with_nothing_on_it_gets_a_remedy_for_everything(subject: Subject) -> None:
    """Nothing raises, and what makes no sense without containerd or a node is left out."""
    findings = await examine(subject)
    assert [one.check for one in findings] == [
        "containerd",
        "config_path",
        "hosts.toml",
        "content_path",
        "node",
    ]
    assert all(one.remedy for one in findings)
    assert {one.level for one in findings} == {Level.ERROR, Level.WARNING}


@pytest.fixture
def hanging(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> Iterator[Subject]:
    """A machine on which everything accepts a question, and nothing ever answers."""
    monkeypatch.setattr("spegel_py.host.doctor.gather.DEADLINE", 0.5)
    os.mkfifo(subject.config_file)
    assert subject.certs is not None
    os.mkfifo(write_hosts(subject.certs, "_default", None))
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX) as daemon,
        socket.create_server(("127.0.0.1", 0)) as port,
    ):
        daemon.bind(f"{folder}/c.sock")
        daemon.listen()
        url = f"http://127.0.0.1:{port.getsockname()[1]}"
        yield replace(subject, socket=Path(folder) / "c.sock", registry=url, metrics=url)


async def test_nothing_that_hangs_holds_up_the_rest(hanging: Subject) -> None:
    """Every fact has its own deadline, and no thread is waited for at the end."""
    async with asyncio.timeout(10.0):
        findings = await examine(hanging)
    names = ["containerd", "config_path", "hosts.toml", "proxy", "content_path", "node"]
    assert [one.check for one in findings] == names
    assert "--containerd-sock" in (findings[0].remedy or "")
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "doctor")


async def test_a_fault_in_one_look_leaves_the_others(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told as what it is."""

    def broken(_path: Path) -> None:
        raise KeyError("oh")

    monkeypatch.setattr("spegel_py.host.doctor.config_file.read", broken)
    findings = await examine(subject)
    assert "could not be looked at: KeyError('oh')" in findings[1].text
    assert len(findings) == 5


async def test_a_start_logs_what_is_not_right(subject: Subject) -> None:
    """One warning each, with the remedy; nothing of peers and pulls, nor of a folder that is not
    visible.
    """
    with structlog.testing.capture_logs() as logs:
        await warn(subject)
    assert [(one["event"], one["log_level"], one["check"]) for one in logs] == [
        *(("doctor", "warning", name) for name in ("containerd", "config_path", "content_path"))
    ]
    assert all(one["finding"] and one["remedy"] for one in logs)


async def test_advice_never_ends_the_node(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in a check is one line in the log."""

    def broken(_facts: Facts) -> None:
        raise KeyError("oh")

    monkeypatch.setattr("spegel_py.host.doctor.examination.CHECKS", (broken,))
    with structlog.testing.capture_logs() as logs:
        await warn(subject)
    assert [one["event"] for one in logs] == ["doctor failed"]


# The command


def test_the_command_prints_json_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Flags are those of `registry`; an error among the findings is exit status 1."""
    flags = [
        "--containerd-sock",
        f"{tmp_path}/no.sock",
        "--containerd-config",
        f"{tmp_path}/no.toml",
    ]
    flags += [
        "--containerd-content-path",
        "",
        "--metrics-addr",
        "127.0.0.1:9",
        "--registry-addr",
        "127.0.0.1:9",
    ]
    flags += ["--containerd-registry-config-path", str(tmp_path)]
    assert main(["doctor", "--json", *flags]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert [one["level"] for one in found["findings"]] == [
        "error",
        "warning",
        "error",
        "ok",
        "error",
    ]
    assert main(["doctor", *flags]) == 1
    out = capsys.readouterr().out
    assert "containerd" in out
    assert "{" not in out


@pytest.mark.parametrize(
    "flags", [["--registry-addr", "nonsense"], ["--nonsense"], ["--config", "/nowhere.yaml"]]
)
def test_wrong_usage_ends_with_2(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One line on stderr."""
    assert main(["doctor", *flags]) == 2
    assert capsys.readouterr().err.count("\n") == 1
