"""Cgroup folders (version 1): one folder of the same name in every hierarchy."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import until

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One folder in each hierarchy; a process that is in all of them is in this cgroup."""

    folders: tuple[tuple[str, Path], ...]
    """Each hierarchy, named as in `mount -o` (`memory`, `name=systemd`), with its folder."""

    @classmethod
    def own(cls) -> Cgroup:
        """Return the cgroup that this process is in."""
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        rows = [line.split(":", 2) for line in lines]
        return cls(
            tuple(
                (controllers, ROOT / controllers.removeprefix("name=") / path.lstrip("/"))
                for _, controllers, path in rows
                if controllers  # the row without controllers is version 2
            )
        )

    def __truediv__(self, name: str) -> Cgroup:
        """Return the cgroup of this name below this one."""
        return Cgroup(tuple((hierarchy, folder / name) for hierarchy, folder in self.folders))

    @property
    def hierarchies(self) -> tuple[str, ...]:
        """The hierarchies' names, as in `mount -o`."""
        return tuple(hierarchy for hierarchy, _ in self.folders)

    def create(self) -> None:
        """Make the folders. A new cpuset has no processors, so it gets those of its parent."""
        for _, folder in self.folders:
            folder.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (file := folder / name).exists():
                    file.write_text((folder.parent / name).read_text())

    def processes(self) -> Iterator[int]:
        """Yield the ids of all processes in this cgroup and below, as this process knows them."""
        _, folder = self.folders[0]
        for parent, _, _ in os.walk(folder):
            with suppress(OSError):  # the folder of a container that has just ended
                yield from map(int, (Path(parent) / "cgroup.procs").read_text().split())

    async def remove(self, *, deadline: float = 20.0) -> None:
        """Remove the folders and all below them, as soon as the processes in them have ended."""

        async def is_removed() -> bool:
            # A list, so that every folder is tried each time.
            removed = [_remove(folder) for _, folder in self.folders]
            return all(removed)

        await until(is_removed, deadline=deadline)


def _remove(folder: Path) -> bool:
    """Remove a folder and all below it; return False if a process is still in one of them."""
    is_empty = True
    for parent, _, _ in os.walk(folder, topdown=False):
        try:
            Path(parent).rmdir()
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.ENOENT):
                raise
            is_empty = is_empty and error.errno == errno.ENOENT
    return is_empty
