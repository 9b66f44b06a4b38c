"""The original of `config_path`: a run killed at any step loses nothing."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import tracemalloc
from functools import partial
from pathlib import Path

import pytest

from spegel_py.errors import ConfigError, HostError
from spegel_py.host.cleanup import clean_up
from spegel_py.host.configuration import configure
from spegel_py.host.disk_steps import Disk
from spegel_py.host.file_tree import File, Folder, LargeFile
from spegel_py.host.host_files import locked, read
from tests.support.host_trees import (
    MADE,
    MIRRORING,
    Make,
    Steps,
    described,
    fresh,
    inner,
    is_whole,
    nothing,
    quick,
    rich,
    steps,
    works,
)


@MADE
def test_what_was_there_comes_back_to_the_last_bit(seen: Path, make: Make) -> None:
    """After both commands contents, names, modes, owners, times, links and empty folders are the
    original.
    """
    root, before = fresh(seen, make)
    configuration, cleanup = works(root)
    configuration(quick())
    assert (root / "docker.io" / "hosts.toml").read_text().count("[host.") >= 1
    cleanup(quick())
    assert inner(described(seen), root) == inner(before, root)


@MADE
def test_a_second_run_changes_nothing(seen: Path, make: Make) -> None:
    """Configuration and cleanup, run again, make not one step and leave even the times alone."""
    root, _ = fresh(seen, make)
    for work in works(root):
        work(quick())
        after = described(seen)
        assert steps(work) == 0
        assert described(seen) == after


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_what_the_disk_refuses_is_said_and_loses_nothing(seen: Path, number: int) -> None:
    """An error at any step is one HostError that names a path; the next run goes on, and cleanup
    gives all back.
    """
    root, before = fresh(seen, rich)
    configuration, cleanup = works(root)

    def refuse() -> None:
        raise OSError(number, os.strerror(number))

    for work in (configuration, cleanup):
        total = steps(work)
        cleanup(quick())
        for step in range(0, total, 3):
            if work is cleanup:
                configuration(quick())
            with pytest.raises(HostError, match=os.strerror(number)) as caught:
                work(quick(Steps(step, refuse)))
            assert str(seen) in str(caught.value)
            cleanup(quick())
            assert inner(described(seen), root) == inner(before, root), step
        configuration(quick())


class WithoutExchange(Disk):
    """An old kernel, or one of the file systems that cannot do it."""

    def _exchange(self, one: Path, other: Path) -> bool:
        return False


def test_a_file_system_that_cannot_exchange_is_served_too(seen: Path) -> None:
    """Where two folders cannot swap names they are replaced in two steps, with the same end."""
    root, before = fresh(seen, rich)
    configuration, cleanup = works(root)
    configuration(WithoutExchange())
    is_whole(root)
    assert (root / "docker.io" / "ca.crt").exists()
    cleanup(WithoutExchange())
    assert inner(described(seen), root) == inner(before, root)


def test_a_large_file_is_copied_and_never_held(seen: Path) -> None:
    """A file beside hosts.toml is kept, and comes back, however large it is; a link to it leads to
    a copy.
    """
    root, _ = fresh(seen, rich)
    for path in (root / "docker.io" / "large.bin", seen / "outside.bin"):
        with path.open("wb") as file:
            file.truncate(48 * 1024 * 1024)
            file.write(b"x")
        os.utime(path, ns=(1, 2))
    (root / "docker.io" / "linked.bin").symlink_to(seen / "outside.bin")
    before = digests(root)
    tracemalloc.start()
    try:
        configure(root, MIRRORING, quick())
        kept = digests(root)
        steps_again = steps(partial(configure, root, MIRRORING))
        clean_up(root, quick())
        assert tracemalloc.get_traced_memory()[1] < 24 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert (
        kept["docker.io/large.bin"] == kept["docker.io/linked.bin"] == before["docker.io/large.bin"]
    )
    assert steps_again == 0
    assert digests(root) == before


def digests(root: Path) -> dict[str, str]:
    """Return the digest of every file, links followed where they lead to one."""
    found = {}
    for path in root.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                found[str(path.relative_to(root))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def test_a_file_that_has_no_room_twice_is_named_before_the_disk_is_full(seen: Path) -> None:
    """The error has the file and its size; no copy begins, and cleanup works as usual."""
    root, _ = fresh(seen, rich)
    with (root / "huge.bin").open("wb") as file:
        file.truncate(1 << 42)
    named = r"huge\.bin has 4398046511104 bytes: No space left.*the disk is full"
    with pytest.raises(HostError, match=named):
        configure(root, MIRRORING, quick())
    assert not list(root.glob("_*/huge.bin"))
    assert not (root / "_backup").exists()
    clean_up(root, quick())
    assert not list(root.glob("_*"))


def test_all_files_together_have_a_bound(seen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the bound is reached further files are copied as large ones are."""
    monkeypatch.setattr("spegel_py.host.host_files.MAX_HELD_TOGETHER", 3000)
    for name in "abcd":
        (seen / f"{name}.crt").write_bytes(bytes(1000))
    found = read(seen)
    assert isinstance(found, Folder)
    kinds = [type(found.entries[f"{name}.crt"]) for name in "abcd"]
    assert kinds == [File, File, File, LargeFile]


def test_a_plan_that_fails_changes_nothing(seen: Path) -> None:
    """An existing hosts.toml that is not TOML stops configuration before its first step, with file
    and line.
    """
    root, _ = fresh(seen, rich)
    (root / "docker.io" / "hosts.toml").write_text('server = "x"\n[host."a"]\nb = = c\n')
    before = described(seen)
    with pytest.raises(ConfigError, match=r"docker\.io/hosts\.toml: line 3: it is not TOML"):
        configure(root, MIRRORING, quick(Steps(0, lambda: pytest.fail("a step was made"))))
    assert described(seen) == before


def test_what_was_added_meanwhile_goes_with_cleanup(seen: Path) -> None:
    """The backup is the original: later changes are removed, as in Spegel."""
    root, before = fresh(seen, rich)
    configuration, cleanup = works(root)
    configuration(quick())
    (root / "new.example").mkdir()
    configuration(quick())
    assert not (root / "new.example").exists()
    (root / "_backup" / "ghcr.io" / "added.txt").write_text("by hand, into the backup")
    cleanup(quick())
    assert (root / "ghcr.io" / "added.txt").exists()
    assert before


def test_a_folder_that_was_made_stays_if_others_use_it(seen: Path) -> None:
    """A folder that was not there before goes with cleanup only where nobody else has put something
    beside it.
    """
    root, _ = fresh(seen, nothing)
    configuration, cleanup = works(root)
    configuration(quick())
    (root.parent / "config.toml").write_text("version = 2")
    cleanup(quick())
    assert sorted(path.name for path in root.parent.iterdir()) == ["config.toml"]


def test_a_backup_of_spegels_is_put_back(seen: Path) -> None:
    """Cleanup after Spegel restores its _backup, and removes all other files."""
    root, before = fresh(seen, rich)
    names = [path.name for path in root.iterdir()]
    (root / "_backup").mkdir(mode=0o755)
    for name in names:
        (root / name).rename(root / "_backup" / name)
    (root / "_default").mkdir()
    (root / "_default" / "hosts.toml").write_text("[host.'http://127.0.0.1:30020']\n")
    clean_up(root, quick())
    after, expected = inner(described(seen), root), inner(before, root)
    key = str(root.relative_to(seen))
    assert (
        after.pop(key)[:3] == expected.pop(key)[:3]
    )  # Spegel does not keep this folder's own time
    assert after == expected


def test_without_a_backup_nothing_is_touched(seen: Path) -> None:
    """Cleanup of a node that was never configured leaves everything."""
    root, before = fresh(seen, rich)
    assert steps(partial(clean_up, root)) == 0
    assert described(seen) == before


@pytest.mark.parametrize("is_link", [False, True], ids=["file", "link"])
def test_a_backup_that_is_none_is_named(seen: Path, is_link: bool) -> None:
    """A file or a link in the backup's place is not taken for one, and not overwritten."""
    root, _ = fresh(seen, rich)
    backup = root / "_backup"
    backup.symlink_to("/") if is_link else backup.write_text("mine")
    with pytest.raises(HostError, match="_backup is no folder"):
        configure(root, MIRRORING, quick())


def test_a_pipe_is_named(seen: Path) -> None:
    """A file that cannot be copied is named before anything is changed."""
    root, _ = fresh(seen, rich)
    os.mkfifo(root / "docker.io" / "pipe")
    before = described(seen)
    with pytest.raises(HostError, match=r"docker\.io/pipe is neither a file nor a folder"):
        configure(root, MIRRORING, quick())
    assert described(seen) == before


def test_a_file_for_config_path_is_named(seen: Path) -> None:
    """A config_path that is a file is an error that names it."""
    (seen / "file").write_text("")
    with pytest.raises(HostError, match="file: Not a directory"):
        configure(seen / "file", MIRRORING, quick())


def test_two_at_once_wait_for_each_other(seen: Path) -> None:
    """While another process changes the folder we wait, and say so after a deadline."""
    root, _ = fresh(seen, rich)
    fd = os.open(root, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        with pytest.raises(HostError, match="being changed by another"), locked(root, deadline=0.1):
            pytest.fail("it was not locked")
    finally:
        os.close(fd)
    configure(root, MIRRORING, quick())


def test_a_file_system_without_locks_is_served_too(
    seen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where folders cannot be locked, as on NFS, we do without; any other refusal is an error."""
    root, _ = fresh(seen, rich)
    refusals = [
        OSError(errno.EBADF, "Bad file descriptor"),
        OSError(errno.EIO, "Input/output error"),
    ]

    def refuse(*_: object) -> None:
        raise refusals.pop(0)

    monkeypatch.setattr(fcntl, "flock", refuse)
    configure(root, MIRRORING, quick())
    with pytest.raises(HostError, match=r"cannot change .*: Input/output error"):
        configure(root, MIRRORING, quick())
