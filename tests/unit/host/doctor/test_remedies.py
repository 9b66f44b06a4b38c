"""Each remedy about hosts.toml files, run as printed: its finding goes away, and nothing else.

The files are real, and so are the mirrors that answer.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import tomllib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from spegel_py.cli import main
from spegel_py.host.doctor import Finding, Level, Subject, hosts_files
from spegel_py.host.doctor.facts import Facts
from spegel_py.host.doctor.gather import _folders
from spegel_py.host.doctor.hosts_checks import check_hosts, check_set_aside
from spegel_py.registry.server import serve

NODE = "our-node"
PULLS = "['pull']"
PLAIN = "server = 'http://registry.example:5000'\n"
HEADER = "X-Spegel-Node"


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave this process's logging and its settings alone."""
    monkeypatch.setattr("spegel_py.telemetry.logging.configure", lambda **_: None)
    for name in ("MIRROR_TARGETS", "MIRRORED_REGISTRIES", "CONTAINERD_SOCK", "PREPEND_EXISTING"):
        monkeypatch.delenv(name, raising=False)


class Machine:
    """containerd's folder, with the mirrors that answer on this machine."""

    def __init__(self, root: Path, ours: str, second: str, registries: Sequence[str] = ()) -> None:
        self.root, self.ours, self.second = root, ours, second
        self.registries = tuple(registries)

    def mirror(self, url: str = "", *, capabilities: str = "['pull', 'resolve']") -> str:
        """Return the table of a mirror as `configuration` writes it."""
        url = url or self.ours
        return (
            f"[host.'{url}']\ncapabilities = {capabilities}\ndial_timeout = '200ms'\n"
            f"[host.'{url}'.header]\n{HEADER} = '{NODE}'\n"
        )

    def write(self, registry: str, text: str, **files: bytes) -> Path:
        """Write the folder of a registry, and return its hosts.toml."""
        folder = self.root / registry
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name.replace("_", ".")).write_bytes(data)
        (folder / "hosts.toml").write_text(text)
        return folder / "hosts.toml"

    async def findings(self) -> list[Finding]:
        """Return the findings about the folder."""
        subject = Subject(
            socket=Path("/none"),
            namespace="k8s.io",
            content_path=None,
            registry=self.ours,
            metrics="",
            certs=self.root,
            registries=self.registries,
        )
        facts = Facts(subject=subject)
        read = hosts_files.read(_folders(facts), self.registries)
        hosts = await hosts_files.asked(read)
        facts = Facts(subject=subject, hosts=hosts, set_aside=hosts_files.set_aside(self.root))
        return [*check_hosts(facts), *check_set_aside(facts)]

    def files(self) -> dict[str, Mapping[str, Any]]:
        """Return the files that containerd can read, by registry."""
        found: dict[str, Mapping[str, Any]] = {}
        for path in self.root.glob("*/hosts.toml"):
            try:
                found[path.parent.name] = tomllib.loads(path.read_text())
            except ValueError:
                continue
        return found


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    """A folder, and two mirrors that answer as spegel-py does."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(headers={"Server": "spegel-py/1"})

    async with AsyncExitStack() as stack:
        urls = []
        for _ in range(2):
            app = web.Application()
            app.router.add_route("*", "/{tail:.*}", answer)
            port = await stack.enter_async_context(serve(app, "127.0.0.1:0", drain=0.1))
            urls.append(f"http://127.0.0.1:{port}")
        yield Machine(tmp_path / "certs.d", *urls)


async def follow(remedy: str) -> None:
    """Run a remedy as somebody would who copies its commands."""
    start = re.search(r"(mv|spegel-py configuration) .*", remedy)
    assert start, remedy
    for command in start[0].split(" && "):
        program, *words = shlex.split(command)
        if program == "mv":
            source, target = words
            shutil.move(source, target)
        else:
            assert await asyncio.to_thread(main, words) == 0


def faults(findings: Sequence[Finding]) -> list[Finding]:
    return [one for one in findings if one.level is not Level.OK]


async def repaired(machine: Machine, said: str) -> dict[str, Mapping[str, Any]]:
    """Follow the remedy of the finding that says this; all that worked still works.

    Returns the files afterwards.
    """
    before = machine.files()
    [found] = [one for one in faults(await machine.findings()) if said in one.text]
    assert found.remedy
    await follow(found.remedy)
    left = faults(await machine.findings())
    assert [one for one in left if said in one.text] == [], left
    after = machine.files()
    for registry, document in before.items():
        assert registry in after, (registry, found.remedy)
        assert after[registry].get("server") == document.get("server")
        lost = document.get("host", {}).keys() - after[registry].get("host", {}).keys()
        assert not lost, (registry, lost, found.remedy)
        for key in document.keys() - {"host", "server"}:
            assert after[registry][key] == document[key]
    return after


async def test_a_registry_with_a_file_of_its_own_is_no_fault(machine: Machine) -> None:
    """One plain-HTTP registry is mirrored and no other: that was somebody's choice."""
    machine.write("registry.example:5000", f"{PLAIN}{machine.mirror()}")
    right, only = await machine.findings()
    assert {right.level, only.level} == {Level.OK}
    assert only.text == (
        "only registry.example:5000: containerd asks no mirror for other registries"
    )


async def test_no_file_at_all(machine: Machine) -> None:
    """The remedy mirrors all registries."""
    machine.root.mkdir()
    after = await repaired(machine, "none for all registries")
    assert list(after) == ["_default"]


async def test_a_named_registry_lacks_its_file(machine: Machine) -> None:
    """The other files keep their servers, their mirrors and the node's name."""
    machine.registries = ("docker.io", "http://registry.example:5000")
    machine.write(
        "registry.example:5000",
        f"{PLAIN}{machine.mirror()}{machine.mirror(machine.second)}",
    )
    after = await repaired(machine, "none for docker.io")
    assert list(after["docker.io"]["host"]) == [machine.ours, machine.second]
    headers = after["docker.io"]["host"][machine.ours]["header"]
    assert headers == {HEADER: NODE}


async def test_a_registry_that_bypasses_the_mirror_keeps_its_settings(machine: Machine) -> None:
    """Its own hosts and certificates stay, after the mirror."""
    machine.write("_default", machine.mirror())
    machine.write("registry.example:5000", f"{PLAIN}{machine.mirror()}")
    machine.write(
        "private.example",
        "server = 'https://private.example'\nca = 'ca.crt'\n[host.'https://cache.example']\n",
        ca_crt=b"certificate",
    )
    after = await repaired(machine, "a folder of its own without this node")
    assert list(after["private.example"]["host"]) == [machine.ours, "https://cache.example"]
    assert (machine.root / "private.example" / "ca.crt").read_bytes() == b"certificate"


async def test_a_file_that_is_no_toml(machine: Machine) -> None:
    """For all registries, beside a registry with its own file."""
    machine.write("_default", "[host")
    machine.write("registry.example:5000", f"{PLAIN}{machine.mirror()}")
    after = await repaired(machine, "_default/hosts.toml cannot be read")
    assert "registry.example:5000" in after


async def test_a_file_that_is_no_toml_beside_one_to_keep(machine: Machine) -> None:
    """The command would refuse the file, so the remedy moves it away first."""
    machine.write("_default", "[host")
    machine.write("private.example", f"{machine.mirror()}[host.'https://cache.example']\n")
    await repaired(machine, "_default/hosts.toml cannot be read")


async def test_a_mirror_that_may_not_pull(machine: Machine) -> None:
    """Only its capabilities change."""
    machine.write("_default", machine.mirror(capabilities="['resolve']"))
    machine.write("quay.io", f"server = 'https://quay.io'\n{machine.mirror()}")
    after = await repaired(machine, "does not let")
    assert after["_default"]["host"][machine.ours]["capabilities"] == ["pull", "resolve"]


async def test_digests_only_stay_digests_only(machine: Machine) -> None:
    """Somebody chose --resolve-tags=false."""
    machine.registries = ("docker.io", "quay.io")
    machine.write("quay.io", f"server = 'https://quay.io'\n{machine.mirror(capabilities=PULLS)}")
    after = await repaired(machine, "none for docker.io")
    assert after["quay.io"]["host"][machine.ours]["capabilities"] == ["pull"]


async def test_a_mirror_at_another_port(machine: Machine) -> None:
    """Nobody listens at the port in the file."""
    path = ["--containerd-registry-config-path", str(machine.root)]
    flags = [*path, "--mirror-targets", "http://127.0.0.1:9"]
    assert await asyncio.to_thread(main, ["configuration", *flags]) == 0
    [found] = faults(await machine.findings())
    assert "answers as spegel-py" in found.text
    await follow(found.remedy or "")
    assert faults(await machine.findings()) == []


async def test_settings_that_were_set_aside(machine: Machine) -> None:
    """They come back behind the mirror, and the other registries stay mirrored."""
    machine.write("quay.io", "server = 'https://quay.io'\n[host.'https://cache.example']\n")
    flags = [
        "--containerd-registry-config-path",
        str(machine.root),
        "--mirror-targets",
        machine.ours,
    ]
    assert await asyncio.to_thread(main, ["configuration", *flags]) == 0
    after = await repaired(machine, "set aside until cleanup")
    assert list(after["quay.io"]["host"]) == [machine.ours, "https://cache.example"]
    assert "_default" in after


async def test_another_host_goes_before_the_mirror(machine: Machine) -> None:
    """The remedy is a change by hand, since a command would drop the other host."""
    file = machine.write("_default", f"[host.'https://cache.example']\n{machine.mirror()}")
    [found] = faults(await machine.findings())
    assert found.remedy == f"put [host.'{machine.ours}'] first"
    file.write_text(f"{machine.mirror()}[host.'https://cache.example']\n")
    assert faults(await machine.findings()) == []
