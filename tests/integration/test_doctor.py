"""The doctor on real machines: containerd set up right and wrong, a node alone and with a peer."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from aiohttp import web

from spegel_py.host.doctor import Finding, Level, Subject, config_file, examine
from spegel_py.host.doctor.containerd_checks import DEFAULT_CONFIG_PATH, TELLS_LAYERS
from spegel_py.registry.server import serve
from spegel_py.store.containerd import Client, cri_status
from tests.integration.cluster import events, joined
from tests.integration.conftest import Labs
from tests.integration.doctoring import bare_doctor, configure, doctor
from tests.support.containerd import Daemon
from tests.support.cri.client import Cri
from tests.support.images import image
from tests.support.lab import REGISTRY
from tests.support.processes import until

pytestmark = pytest.mark.root

Start = Callable[..., Awaitable[Daemon]]
Edit = Callable[[str], str]

NAME = "registry.example/team/app:1"

TELLS_SETTINGS = (2, 4)
"""containerd 2.x tells how it pulls from here on."""


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start a containerd whose configuration was edited: `await start(edit)`."""
    async with AsyncExitStack() as stack:

        async def started(edit: Edit = lambda text: text, **options: Any) -> Daemon:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spegel-")))
            daemon = Daemon(folder=folder, **options)
            config = folder / "config.toml"
            config.write_text(edit(config.read_text()))
            stack.push_async_callback(daemon.stop)
            await daemon.start()
            return daemon

        yield started


def subject_of(daemon: Daemon) -> Subject:
    return Subject(
        socket=daemon.socket,
        namespace="k8s.io",
        content_path=daemon.content_path,
        containerd_config=daemon.folder / "config.toml",
        registry="http://127.0.0.1:9",
        metrics="http://127.0.0.1:9",
        certs=daemon.certs,
    )


async def found(subject: Subject, check: str) -> Finding:
    """Return the first finding of this check."""
    return next(finding for finding in await examine(subject) if finding.check == check)


async def version_of(daemon: Daemon) -> tuple[int, ...]:
    async with Client(socket=daemon.socket) as client:
        return tuple(map(int, re.findall(r"\d+", await client.version())[:2]))


def config_path(value: str) -> Edit:
    """Return an edit that sets `config_path`, where {certs} stands for the folder that is right."""
    return lambda text: re.sub(
        r'config_path = "(.*)"', lambda old: f'config_path = "{value.format(certs=old[1])}"', text
    )


async def test_a_containerd_that_is_set_up_right_is_right(start: Start) -> None:
    """Its version, settings and content are read."""
    daemon = await start()
    await daemon.load({NAME: image()})
    findings = {one.check: one for one in await examine(subject_of(daemon))}
    for check in ("containerd", "config_path", "discard_unpacked_layers", "content_path"):
        assert findings[check].level is Level.OK, findings[check]
    is_told = not (2, 0) <= await version_of(daemon) < TELLS_SETTINGS
    assert ("by the running daemon" in findings["config_path"].text) is is_told
    assert "holds what containerd lists" in findings["content_path"].text


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        pytest.param(config_path("/elsewhere"), "/elsewhere", id="another folder"),
        pytest.param(config_path(""), None, id="empty"),
    ],
)
async def test_a_wrong_config_path_is_an_error(start: Start, edit: Edit, said: str | None) -> None:
    """The remedy names what to set; from 2.2 on an empty one has a default, which is told as
    well.
    """
    daemon = await start(edit)
    finding = await found(subject_of(daemon), "config_path")
    assert finding.level is Level.ERROR
    has_default = await version_of(daemon) >= (2, 2)
    assert (said or (DEFAULT_CONFIG_PATH if has_default else "not set")) in finding.text
    assert f'config_path = "{daemon.certs}"' in (finding.remedy or "")


async def test_a_list_of_folders_is_an_error_since_containerd_takes_it_for_one(
    start: Start,
) -> None:
    """Before 2.1 the mirror is asked; from 2.1 on it is not, and the doctor says so (containerd
    issue 12808).
    """
    asked: list[str] = []

    async def refuse(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=404, headers={"Server": "spegel-py"})

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", refuse)
    async with serve(app, "127.0.0.1:0", drain=0.1) as port:
        for value, is_list in (("{certs}", False), ("{certs}:/nowhere", True)):
            daemon = await start(config_path(value))
            (daemon.certs / "_default").mkdir()
            (daemon.certs / "_default" / "hosts.toml").write_text(
                f"server = 'http://127.0.0.1:9'\n[host.'http://127.0.0.1:{port}']\ncapabilities "
                "= ['pull', 'resolve']\n"
            )
            asked.clear()
            with pytest.raises(grpc.aio.AioRpcError):
                await Cri(socket=daemon.socket).pull("registry.invalid/app:1")
            is_passed_by = is_list and await version_of(daemon) >= TELLS_LAYERS
            assert bool(asked) is not is_passed_by
            finding = await found(subject_of(daemon), "config_path")
            assert finding.level is (Level.ERROR if is_passed_by else Level.OK)


async def test_discarded_layers_are_an_error(start: Start) -> None:
    """As some clouds set it."""
    daemon = await start(discards_layers=True)
    assert (await found(subject_of(daemon), "discard_unpacked_layers")).level is Level.ERROR


async def test_a_containerd_without_cri_is_a_warning(start: Start) -> None:
    """Docker's package sets it up so."""
    daemon = await start(has_cri=False)
    finding = await found(subject_of(daemon), "config_path")
    assert finding.level is Level.WARNING
    assert "disabled_plugins" in (finding.remedy or "")


@pytest.mark.parametrize("discards", [False, True], ids=["keeps layers", "discards layers"])
async def test_the_file_says_what_the_daemon_tells(start: Start, discards: bool) -> None:
    """Where a daemon does not tell, its file is as good."""
    daemon = await start(discards_layers=discards)
    async with Client(socket=daemon.socket) as client:
        told = await cri_status(client)
    assert told.is_served
    if told.images is not None:
        assert told.images == config_file.read(daemon.folder / "config.toml").images


async def test_imports_are_merged_as_the_daemon_does(start: Start) -> None:
    """From 2.0 on files are merged table by table; 1.x has other rules, but reports the result."""

    def edit(text: str) -> str:
        text = re.sub(r"^version = 2", 'version = 2\nimports = ["conf.d/*.toml"]', text)
        return text.replace("discard_unpacked_layers = false", "discard_unpacked_layers = true")

    daemon = await start(edit)
    await daemon.stop()
    (daemon.folder / "conf.d").mkdir()
    table = '[plugins."io.containerd.grpc.v1.cri"'
    (daemon.folder / "conf.d" / "a.toml").write_text(
        f'version = 2\n{table}.registry]\nconfig_path = "/imported"\n{table}.containerd]\n'
        "discard_unpacked_layers = false\n"
    )
    await daemon.start()
    async with Client(socket=daemon.socket) as client:
        told = (await cri_status(client)).images
    if told is not None and await version_of(daemon) >= (2, 0):
        assert told == config_file.read(daemon.folder / "config.toml").images


async def test_a_containerd_that_is_not_there_is_an_error(start: Start) -> None:
    """Its settings are then those of its file."""
    daemon = await start()
    await daemon.stop()
    subject = subject_of(daemon)
    assert (await found(subject, "containerd")).level is Level.ERROR
    finding = await found(subject, "config_path")
    assert finding.level is Level.OK
    assert f"by {subject.containerd_config}" in finding.text


async def test_a_containerd_that_hangs_is_an_error(start: Start) -> None:
    """Stopped, it accepts connections and never answers; the other checks go on."""
    daemon = await start()
    daemon.process.send(19)  # SIGSTOP
    findings = {one.check: one for one in await examine(subject_of(daemon))}
    assert findings["containerd"].level is Level.ERROR
    assert findings["config_path"].level is Level.OK
    assert findings["content_path"].level is Level.WARNING


async def test_the_content_of_another_containerd_is_an_error(start: Start) -> None:
    """The remedy names the folder that the daemon itself gives."""
    daemon, other = await start(), await start()
    await daemon.load({NAME: image("one")})
    await other.load({NAME: image("other")})
    finding = await found(
        replace(subject_of(daemon), content_path=other.content_path), "content_path"
    )
    assert finding.level is Level.WARNING
    assert str(daemon.content_path) in (finding.remedy or "")


async def test_a_node_alone_and_with_a_peer(labs: Labs) -> None:
    """Alone it works, with a warning; with a peer and an image everything is right; without the
    node it is not.
    """
    lab = await labs(2)
    node, other = lab.nodes
    await configure(node)
    await node.start_spegel()
    status, findings = await doctor(node)
    assert status == 0
    assert {name for name, one in findings.items() if one["level"] != "ok"} == {
        "node",
        "peers",
        "pull",
        "set_aside",
    }
    assert findings["node"]["finding"] == "runs, but is not ready: no peer is connected"
    assert REGISTRY in findings["set_aside"]["finding"]
    assert "isolated" in findings["peers"]["finding"]
    assert "holds no image" in findings["pull"]["finding"]

    await other.start_spegel()
    await joined(node, other)
    await node.daemon.load({lab.name("test/app:1"): image()})
    status, findings = await doctor(node)
    assert status == 0
    assert {name for name, one in findings.items() if one["level"] != "ok"} == {"set_aside"}
    assert findings["peers"]["finding"] == "1 connected"
    assert "verified" in findings["pull"]["finding"]

    assert node.spegel
    await node.spegel.end()
    status, findings = await doctor(node)
    assert status == 1
    assert {name for name, one in findings.items() if one["level"] == "error"} == {
        "hosts.toml",
        "node",
        "pull",
    }


async def test_a_proxy_between_containerd_and_its_mirror_is_named(
    labs: Labs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the node's own address requests would go to the proxy; at 127.0.0.1, or with the line,
    they do not.
    """
    monkeypatch.setenv("HTTP_PROXY", "http://10.99.9.9:3128")
    lab = await labs(1)
    [node] = lab.nodes
    await node.start_spegel()
    await configure(node, node.address)
    status, findings = await doctor(node)
    assert (status, findings["proxy"]["level"], findings["hosts.toml"]["level"]) == (
        1,
        "error",
        "ok",
    )
    assert (
        f"http://{node.address}:5000 through the proxy http://10.99.9.9:3128"
        in findings["proxy"]["finding"]
    )
    assert f'"NO_PROXY={node.address}"' in findings["proxy"]["remedy"]

    await configure(node)
    status, findings = await doctor(node)
    assert (status, findings["proxy"]["level"]) == (0, "ok")

    await configure(node, node.address)
    monkeypatch.setenv("NO_PROXY", node.address)
    await node.daemon.stop()
    await node.daemon.start()
    status, findings = await doctor(node)
    assert (status, findings["proxy"]["level"]) == (0, "ok")


async def test_a_start_says_what_is_wrong(labs: Labs) -> None:
    """A node on a containerd that asks no mirror logs so once, with the remedy, and starts all the
    same.
    """
    lab = await labs(1)
    [node] = lab.nodes
    await node.start_spegel()
    is_told = not (2, 0) <= await version_of(node.daemon) < TELLS_SETTINGS
    check = "hosts.toml" if is_told else "config_path"

    async def is_said() -> bool:
        return bool(events(node, "doctor", check=check))

    await until(is_said, deadline=20.0)
    [said] = events(node, "doctor")
    assert said["level"] == "warning"
    assert said["remedy"]


async def test_without_flags_it_asks_the_running_node(labs: Labs) -> None:
    """Beside a healthy node there is no false finding, whatever paths containerd has."""
    lab = await labs(2)
    node, other = lab.nodes
    await asyncio.gather(node.start_spegel(), other.start_spegel())
    await joined(node, other)
    await node.daemon.load({lab.name("test/app:1"): image()})
    plain = ("--mirrored-registries", "_default", f"http://{REGISTRY}")
    await configure(node, more=plain)
    status, findings = await bare_doctor(node)
    wrong = [one for one in findings if one["level"] != "ok" and one["check"] != "set_aside"]
    assert (status, wrong) == (0, [])
    text = " ".join(one["finding"] for one in findings)
    for path in (node.daemon.socket, node.daemon.certs, node.daemon.content_path):
        assert str(path) in text
    checks = {one["check"] for one in findings if one["level"] == "ok"}
    assert {"containerd", "config_path", "hosts.toml", "node", "peers", "pull"} <= checks


async def test_a_user_without_rights_is_told_who_may_look(labs: Labs) -> None:
    """In words, with the command; nothing is called broken that works."""
    lab = await labs(1)
    [node] = lab.nodes
    await node.start_spegel()
    await configure(node)
    for folder in (node.folder.parent, node.folder):
        folder.chmod(0o755)
    node.daemon.socket.chmod(0o660)
    (node.folder / "root").chmod(0o700)
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    _, findings = await bare_doctor(node, *nobody)
    told = json.dumps(findings, ensure_ascii=False)
    assert "PermissionError" not in told
    assert "Errno" not in told
    by_check = {one["check"]: one for one in findings}
    assert "may not be used by user 65534" in by_check["containerd"]["finding"]
    assert by_check["containerd"]["remedy"].startswith("run as root, or as a member of the group ")
    assert by_check["node"]["level"] in ("ok", "warning")
    for one in findings:
        if one["check"] in ("config_path", "content_path") and one["level"] != "ok":
            assert "root" in one["remedy"], one


async def apply(remedy: str, daemon: Daemon) -> None:
    """Follow a remedy that sets a key in containerd's file and restarts it, as an operator does."""
    found = re.search(
        r"in (\S+): (\[plugins\.[^\]]*\]) (\w+ = \S+); then systemctl restart", remedy
    )
    assert found, remedy
    file, (table, line) = Path(found[1]), (found[2], found[3])
    assert file == daemon.folder / "config.toml"
    key = line.partition(" ")[0]
    lines = [one for one in file.read_text().splitlines() if not one.strip().startswith(f"{key} =")]
    where = [number for number, one in enumerate(lines) if one.strip() == table]
    if where:
        lines.insert(where[0] + 1, line)
    else:
        lines += [table, line]
    file.write_text("\n".join(lines) + "\n")
    await daemon.stop()
    await daemon.start()


@pytest.mark.parametrize(
    ("edit", "check"),
    [
        pytest.param(config_path(""), "config_path", id="not set"),
        pytest.param(config_path("/elsewhere"), "config_path", id="another folder"),
        pytest.param(config_path("{certs}:/nowhere"), "config_path", id="a list"),
        pytest.param(
            lambda text: text.replace("unpacked_layers = false", "unpacked_layers = true"),
            "discard_unpacked_layers",
            id="layers are discarded",
        ),
    ],
)
async def test_the_remedy_for_containerd_repairs_it(start: Start, edit: Edit, check: str) -> None:
    """The line goes into the file as it is printed; the finding is gone, and no other appears."""
    daemon = await start(edit)
    await daemon.load({NAME: image()})
    subject = subject_of(daemon)
    before = {one.check: one for one in await examine(subject)}
    if before[check].level is Level.OK:
        pytest.skip("this version of containerd takes a list of folders")
    await apply(before[check].remedy or "", daemon)
    after = {one.check: one for one in await examine(subject)}
    assert after[check].level is Level.OK, after[check]
    levels = {name: one.level for name, one in before.items() if name != check}
    assert {name: one.level for name, one in after.items() if name != check} == levels


async def test_a_file_that_the_daemon_was_given_is_found(start: Start) -> None:
    """Its path is on the command line of the process."""
    daemon = await start()
    subject = replace(subject_of(daemon), containerd_config=None)
    findings = {one.check: one for one in await examine(subject)}
    assert findings["config_path"].level is Level.OK, findings["config_path"]
