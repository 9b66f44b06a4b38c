"""The command's arguments, texts and lines, without a network."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import pytest
from rich.console import Console

from spegel_py.cli import main
from spegel_py.commands import pull_command
from spegel_py.errors import (
    BlobUnknown,
    DigestMismatch,
    PeerRefused,
    PeerUnreachable,
    SpegelError,
    StoreUnavailable,
)
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import OCI_LAYER_GZIP, OCI_MANIFEST, Child
from spegel_py.pull.answers import parse_mirror
from spegel_py.pull.progress import show_progress
from spegel_py.pull.pull_events import (
    BlobFinished,
    BlobInterrupted,
    BlobOpened,
    BytesFetched,
    PullEvent,
    PullPlanned,
)

BLOB = Child(Digest.of(b"layer"), 1000, OCI_LAYER_GZIP)
ROOT = Child(Digest.of(b"root"), 100, OCI_MANIFEST)
EVENTS: list[PullEvent] = [
    PullPlanned(ROOT, (ROOT,), (BLOB,)),
    BlobOpened(BLOB, 0, "12D3KooWpeer[bold]A"),
    BytesFetched(BLOB, 400, 400, "12D3KooWpeer[bold]A"),
    BlobInterrupted(BLOB, 400, "[/broke] off"),
    BlobOpened(BLOB, 400, None),
    BytesFetched(BLOB, 1000, 600, None),
    BlobFinished(BLOB, was_here=False),
]


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    pull_command.add_arguments(parser)
    return pull_command.run(parser.parse_args(arguments))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["alpine", "--mirror", "http://127.0.0.1:1"], "registry/repository:tag"),
        (["r.example/app", "--mirror", "http://127.0.0.1:1"], "needs a tag or a digest"),
        (["r.example/app@sha256:12", "--mirror", "http://127.0.0.1:1"], "64 lower-case hex digits"),
        (["r.example/app:1", "--mirror", "127.0.0.1:5000"], "http://127.0.0.1:5000"),
        (["r.example/app:1", "--mirror", "ftp://127.0.0.1"], "not a mirror's address"),
        (["r.example/app:1", "--mirror", "http://u:secret@h/x"], "…@h/x"),
        (["r.example/app:1", "--mirror", "http://h:99999"], "not a mirror's address"),
        (
            ["r.example/app:1", "--mirror", "http://h", "--upstream", "r.example"],
            "'r.example' is not upstream's address",
        ),
        (["r.example/app:1", "--mirror", "http://h", "--upstream", "http://u:secret@h/x"], "…@h/x"),
        (
            ["r.example/app:1", "--mirror", "http://127.0.0.1:1", "--platform", "linux"],
            "not a platform",
        ),
        (["r.example/app:1", "--mirror", "http://127.0.0.1:1", "--parallel", "0"], "--parallel"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong argument gives one line on stderr and status 2, and no password is printed."""
    assert run(*arguments, "--into", str(tmp_path / "layout")) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert "secret" not in err


def test_a_folder_with_other_things_is_a_wrong_argument(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that is no layout stays unchanged."""
    (tmp_path / "letter.txt").write_text("dear")
    assert run("r.example/app:1", "--mirror", "http://127.0.0.1:1", "--into", str(tmp_path)) == 2
    assert "holds other files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BlobUnknown("nobody"), "pull it from its own registry"),
        (DigestMismatch("wrong"), "run it again"),
        (PeerRefused("no", status=401), "user:password"),
        (PeerRefused("no", status=500), "--mirror"),
        (PeerUnreachable("no"), "is the mirror running"),
        (StoreUnavailable("the folder cannot be written"), "owner or mode"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, SpegelError) else "",
)
def test_every_failure_says_what_to_do(error: SpegelError, said: str) -> None:
    """Each failure of the mirror, the content or the disk comes with advice."""
    assert said in pull_command.advice(error)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BlobUnknown("nobody"), "--upstream its registry"),
        (PeerRefused("no", status=401), "--upstream http://user:password"),
        (PeerRefused("no", status=500), "are mirror and registry running"),
        (PeerUnreachable("no"), "are mirror and registry running"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, SpegelError) else "",
)
def test_with_upstream_failures_speak_of_it(error: SpegelError, said: str) -> None:
    """If upstream was given and failed too, the advice is about both."""
    assert said in pull_command.advice(error, upstream="https://registry.example")


def test_a_mirrors_credentials_are_taken_from_its_address() -> None:
    """User and password of the URL are sent, and are missing from the printed address."""
    mirror = parse_mirror("https://me:secret@mirror.example:8443/")
    assert mirror.url == "https://mirror.example:8443"
    assert mirror.authorization == "Basic bWU6c2VjcmV0"
    assert "bWU6" not in repr(mirror)


def test_lines_without_a_terminal() -> None:
    """Without a terminal each finished and each broken blob is one line, with its peer."""
    out = io.StringIO()
    with show_progress(Console(file=out, width=40)) as show:
        for event in EVENTS:
            show(event)
    lines = out.getvalue().splitlines()
    assert len(lines) == 4
    assert "broke off at byte 400 of 1000: [/broke] off" in lines[1]
    assert "going on at byte 400" in lines[2]
    assert lines[3].endswith("1000 bytes, from the mirror, verified")


def test_upstream_is_named() -> None:
    """Bytes from upstream, past the mirror, are named as such."""
    out = io.StringIO()
    with show_progress(Console(file=out, width=40)) as show:
        for event in (EVENTS[0], BlobOpened(BLOB, 0, None, is_upstream=True), EVENTS[-1]):
            show(event)
    assert out.getvalue().splitlines()[1].endswith("1000 bytes, from upstream, verified")


def test_bars_on_a_terminal() -> None:
    """On a terminal each blob has a bar with its peer. Foreign texts are not markup."""
    out = io.StringIO()
    with show_progress(Console(file=out, width=120, force_terminal=True)) as show:
        for event in EVENTS[:4]:
            show(event)
    assert "again: [/broke] off" in out.getvalue()
    assert str(BLOB.digest.hex[:12]) in out.getvalue()


def test_a_pull_that_fetches_nothing_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the layout nor its parents, unless they were there before."""
    words = ["pull", "registry.example/app:1", "--mirror", "http://127.0.0.1:9", "--quiet"]
    assert main([*words, "--into", str(tmp_path / "new" / "layout")]) == 1
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    assert main([*words, "--into", str(tmp_path / "old")]) == 1
    assert (tmp_path / "old").is_dir()
    assert capsys.readouterr().err.count("\n") == 2
