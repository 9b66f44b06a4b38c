"""A runtime's file is changed and put back, whatever ends the process or edits the file."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from spegel_py.errors import HostError
from spegel_py.host import daemon_json, registries_conf
from spegel_py.host.disk_steps import Disk
from spegel_py.host.host_files import names
from spegel_py.host.registries import parse_registries
from spegel_py.host.runtime_file import RuntimeFile
from tests.support.host_trees import described, dies, quick

OLD, NEW = ["http://127.0.0.1:5000"], ["http://127.0.0.1:6000"]
USERS = '{ "dns" : ["1.1.1.1"],\n\n "registry-mirrors": [ "https://own.example" ] }'


def docker(folder: Path) -> RuntimeFile:
    return RuntimeFile(folder / "docker" / "daemon.json", daemon_json.remove)


def podman(folder: Path) -> RuntimeFile:
    place = folder / "registries.conf.d" / "spegel-py.conf"
    return RuntimeFile(place, lambda text, mirrors: "", head=registries_conf.HEAD)


def drop_in(text: str, *targets: str) -> str:
    return registries_conf.render(parse_registries(["registry.example"]), targets)


def change(file: RuntimeFile, mirrors: list[str], disk: Disk | None = None) -> bool:
    if file.head:
        return file.change(lambda text: drop_in(text, *mirrors), (), disk or quick())
    return file.change(partial(daemon_json.add, mirrors=mirrors), mirrors, disk or quick())


def mirrors_of(file: RuntimeFile) -> list[str]:
    return list(json.loads(file.path.read_text())["registry-mirrors"])


@pytest.mark.parametrize("make", [docker, podman], ids=["docker", "podman"])
@pytest.mark.parametrize("text", [None, USERS], ids=["missing", "the user's"])
def test_a_file_is_changed_once_and_put_back(make: type, text: str | None, tmp_path: Path) -> None:
    """With its owner and mode; a second run of either changes nothing."""
    file = make(tmp_path)
    if text is not None and not file.head:
        file.path.parent.mkdir()
        file.path.write_text(text)
        file.path.chmod(0o640)
    before = described(tmp_path)
    assert change(file, OLD)
    changed = described(tmp_path)
    assert not change(file, OLD)
    assert described(tmp_path) == changed
    assert change(file, NEW)
    assert file.restore(quick())
    assert not file.restore(quick())
    found = described(tmp_path)
    assert found is not None
    assert before is not None
    assert {name: (*each[:3], each[4]) for name, each in found.items()} == {
        name: (*each[:3], each[4]) for name, each in before.items()
    }


def test_what_the_user_changes_later_stays(tmp_path: Path) -> None:
    """Only the mirrors are taken out of an edited file."""
    file = docker(tmp_path)
    file.path.parent.mkdir()
    file.path.write_text(USERS)
    change(file, OLD)
    edited = json.loads(file.path.read_text()) | {"debug": True}
    file.path.write_text(json.dumps(edited))
    change(file, NEW)
    assert mirrors_of(file) == [*NEW, "https://own.example"]
    assert file.restore(quick())
    assert json.loads(file.path.read_text()) == json.loads(USERS) | {"debug": True}


def test_a_file_that_the_user_wrote_into_outlives_the_clean_up(tmp_path: Path) -> None:
    file = docker(tmp_path)
    change(file, OLD)
    edited = json.loads(file.path.read_text()) | {"debug": True}
    file.path.write_text(json.dumps(edited))
    assert file.restore(quick())
    assert json.loads(file.path.read_text()) == {"debug": True}
    file.path.unlink()
    change(file, OLD)
    file.path.unlink()
    assert file.restore(quick())
    assert not file.path.exists()


def test_an_edited_drop_in_is_copied(tmp_path: Path) -> None:
    """It is this program's file, so the next run writes it anew."""
    file = podman(tmp_path)
    change(file, OLD)
    file.path.write_text(f"{file.path.read_text()}# mine\n")
    change(file, NEW)
    copy = file.path.with_name("spegel-py.conf.edited")
    assert copy.read_text().endswith("# mine\n")
    assert file.restore(quick())
    assert names(file.path.parent) == [copy.name]


def test_a_drop_in_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    file = podman(tmp_path)
    file.path.parent.mkdir()
    file.path.write_text("unqualified-search-registries = []\n")
    with pytest.raises(HostError, match="is not this program's"):
        change(file, OLD)
    assert names(file.path.parent) == ["spegel-py.conf"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"{", "not JSON"), (b"\xff", "not UTF-8"), (b" " * 70_000, "at most 65536")],
)
def test_a_file_that_cannot_be_edited_stays(data: bytes, reason: str, tmp_path: Path) -> None:
    """One line says where it is wrong, and that nothing was changed."""
    file = docker(tmp_path)
    file.path.parent.mkdir()
    file.path.write_bytes(data)
    with pytest.raises(HostError, match=reason):
        change(file, OLD)
    assert file.path.read_bytes() == data
    assert names(file.path.parent) == ["daemon.json"]


def test_a_runtime_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="is the runtime installed here"):
        change(docker(tmp_path / "nowhere"), OLD)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    file = docker(tmp_path)
    change(file, OLD)
    file.record_path.write_text("{}")
    with pytest.raises(HostError, match="is damaged"):
        change(file, OLD)


@pytest.mark.parametrize("make", [docker, podman], ids=["docker", "podman"])
@pytest.mark.parametrize("has_file", [False, True], ids=["missing", "present"])
def test_either_may_die_at_any_step(make: type, has_file: bool, tmp_path: Path) -> None:
    """Killed before each step of a first run, of a second one with another mirror, and of the
    clean-up: the original comes back byte for byte.
    """
    number, is_dead = 0, True
    while is_dead:
        folder = tmp_path / str(number)
        folder.mkdir()
        file = make(folder)
        if has_file and not file.head:
            file.path.parent.mkdir()
            file.path.write_text(USERS)

        def run(disk: Disk, file: RuntimeFile = file) -> None:
            change(file, OLD, disk)
            change(file, NEW, disk)
            file.restore(disk)

        is_dead = dies(run, number)
        if file.path.exists() and not file.head:
            json.loads(file.path.read_text())
        file.restore(quick())
        kept = [path.read_text() for path in folder.rglob("*") if path.is_file()]
        assert kept == ([USERS] if has_file and not file.head else []), number
        number += 1
    assert number > 20
