"""Trees for the tests of `spegel_py.host`: made, described to the last bit, and changed by
processes that die.
"""

from __future__ import annotations

import os
import signal
import tomllib
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from spegel_py.host.disk_steps import Disk, OnStep
from spegel_py.host.file_tree import Entry, Folder
from spegel_py.host.host_files import read
from spegel_py.host.mirroring import KeptHosts, Mirroring
from spegel_py.host.original import change, restore
from spegel_py.host.registries import parse_registries, parse_targets

MIRROR = "http://127.0.0.1:5000"
EXISTING = """\
# kept by hand
server = "https://registry-1.docker.io" # upstream

# the one in the next room
[host."https://mirror.example"]
  capabilities = ["pull"]
  ca = ["ca.crt", "certs/second.crt"]
  [host."https://mirror.example".header]
    x-custom = ["1", "2"]

# the old one
[host."http://old.example:8080"]
  client = [
    ["client.cert", "client.key"],
  ]
"""

Make = Callable[[Path], None]
Work = Callable[[Disk], object]

MOMENT = 1_600_000_000_123_456_789


def mirroring(
    *registries: str, keeps_existing: bool | KeptHosts = False, **others: object
) -> Mirroring:
    return Mirroring(
        registries=parse_registries(registries),
        targets=parse_targets([MIRROR]),
        node="node-1",
        keeps_existing=KeptHosts.parse(keeps_existing),
        **others,  # type: ignore[arg-type]  # named as the fields are
    )


def make_rich(root: Path) -> None:
    """Make a `config_path` with everything that may lie in one."""
    files = {
        "docker.io/hosts.toml": EXISTING,
        "docker.io/ca.crt": "ca",
        "docker.io/certs/second.crt": "second",
        "docker.io/client.cert": "certificate",
        "docker.io/client.key": "key",
        "registry.example_5000_/hosts.toml": 'server = "http://registry.example:5000"\n[host]\n',
        "ghcr.io/ca.crt": "docker's way",
        "a file.txt": "no folder",
    }
    for number, (name, text) in enumerate(files.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod((0o644, 0o600, 0o640, 0o4755)[number % 4])
    (root / "empty" / "within").mkdir(parents=True)
    (root / "quay.io").symlink_to("docker.io")
    (root / "dangling").symlink_to("/nowhere/at/all")
    (Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe"))).write_bytes(bytes(range(256)))
    (root / "docker.io" / "client.key").chmod(0o400)
    (root / "docker.io").chmod(0o2750)
    (root / "empty").chmod(0o700)
    if os.geteuid() == 0:
        os.chown(root / "docker.io" / "ca.crt", 1234, 5678)
        os.chown(root / "quay.io", 1234, 5678, follow_symlinks=False)
        os.chown(root / "empty", 1234, 5678)
    root.chmod(0o711)
    for number, path in enumerate([*sorted(root.rglob("*"), reverse=True), root]):
        os.utime(path, ns=(MOMENT, MOMENT + number), follow_symlinks=False)


def described(root: Path) -> dict[str, tuple[object, ...]] | None:
    """Return all there is to know of a tree, its own folder included; None where there is none."""
    if not os.path.lexists(root):
        return None
    return {str(path.relative_to(root)): _described(path) for path in [root, *root.rglob("*")]}


def _described(path: Path) -> tuple[object, ...]:
    found = path.lstat()
    content: object = None
    if path.is_symlink():
        content = path.readlink()
    elif path.is_file():
        content = path.read_bytes()
    return (oct(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns, content)


class Steps:
    """Counts the steps, and lets `act` happen just before the one of this number, the first being
    0.
    """

    def __init__(self, number: int = -1, act: Callable[[], None] = lambda: None) -> None:
        self.count = 0
        self._number = number
        self._act = act

    def __call__(self, what: str, path: Path) -> None:
        if self.count == self._number:
            self._act()
        self.count += 1


def quick(on_step: OnStep = lambda *_: None) -> Disk:
    """Return a disk that does not wait for the real one: a process that dies takes nothing with it
    that was written.
    """
    return Disk(on_step=on_step, is_durable=False)


def dies(work: Callable[[Disk], object], number: int) -> bool:
    """Do some work in a process that kills itself just before a step; False if it ended before
    that.
    """
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of forking beside threads: none of them is needed here
        pid = os.fork()
    if not pid:
        try:
            work(quick(Steps(number, lambda: os.kill(os.getpid(), signal.SIGKILL))))
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


# Both commands on such trees

MIRRORING = mirroring(
    "https://docker.io", "http://registry.example:5000", "https://quay.io", keeps_existing=True
)


def nothing(root: Path) -> None:
    pass


def empty(root: Path) -> None:
    root.mkdir(parents=True)
    os.utime(root, ns=(5, 5))


def rich(root: Path) -> None:
    root.mkdir(parents=True)
    make_rich(root)


MADE = pytest.mark.parametrize("make", [nothing, empty, rich], ids=["absent", "empty", "rich"])


def works(root: Path) -> tuple[Work, Work]:
    """Return configuration and cleanup; what is to be written is worked out once, and always from
    the same original.
    """
    seen: list[tuple[Folder, Mapping[str, Entry]]] = []

    def plan(before: Folder) -> Mapping[str, Entry]:
        if not seen:
            seen.append((before, MIRRORING.plan(before, root=root, outside=read)))
        original, wanted = seen[0]
        assert before.entries == original.entries
        return wanted

    return partial(change, root, plan), partial(restore, root)


def fresh(folder: Path, make: Make) -> tuple[Path, dict[str, Any] | None]:
    root = folder / "etc" / "containerd" / "certs.d"
    make(root)
    return root, described(folder)


def steps(work: Work) -> int:
    counter = Steps()
    work(quick(counter))
    return counter.count


def is_whole(root: Path) -> None:
    """Fail if containerd could meet a hosts.toml that is not whole."""
    for file in root.glob("[!_]*/hosts.toml"):
        assert tomllib.loads(file.read_text())["server"]


def without_time(tree: dict[str, Any] | None) -> dict[str, Any]:
    return {name: (*about[:3], about[4]) for name, about in (tree or {}).items()}


def inner(tree: dict[str, Any] | None, root: Path) -> dict[str, Any]:
    """Leave out the times of the folders above the root: what is made and removed in them changes
    those.
    """
    above = {".", *(str(Path("etc", *parts)) for parts in ((), ("containerd",)))}
    return {
        name: (*about[:3], about[4]) if name in above else about
        for name, about in (tree or {}).items()
    }
