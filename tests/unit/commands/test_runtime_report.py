"""`configuration --runtime` and `cleanup --runtime`, as an operator meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spegel_py.cli import main

TARGET = ["--mirror-targets", "http://127.0.0.1:1"]
USERS = '{"dns": ["1.1.1.1"]}\n'


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave this process's logging and its settings alone."""
    monkeypatch.setattr("spegel_py.telemetry.logging.configure", lambda **_: None)
    for name in ("ADDR", "MIRROR_TARGETS", "MIRRORED_REGISTRIES", "RUNTIME", "RUNTIME_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The user's daemon.json."""
    path = tmp_path / "docker" / "daemon.json"
    path.parent.mkdir()
    path.write_text(USERS)
    return path


def docker(command: str, file: Path, *options: str) -> int:
    return main([command, "--runtime", "docker", "--runtime-file", str(file), *options])


def test_a_file_is_written_and_put_back(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each run says what it did, and what makes the runtime read it."""
    assert docker("configuration", file, *TARGET) == 0
    assert json.loads(file.read_text())["registry-mirrors"] == ["http://127.0.0.1:1"]
    out = capsys.readouterr().out
    assert "has the mirrors now; run: systemctl reload docker" in " ".join(out.split())
    assert "no mirror listens at http://127.0.0.1:1 yet" in " ".join(out.split())
    assert docker("configuration", file, *TARGET) == 0
    assert "had the mirrors already" in capsys.readouterr().out
    assert docker("cleanup", file) == 0
    assert "is as it was before the first configuration" in " ".join(
        capsys.readouterr().out.split()
    )
    assert file.read_text() == USERS
    assert docker("cleanup", file) == 0
    assert "nothing to put back" in capsys.readouterr().out


def test_programs_get_one_object(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run has the diff, and changes nothing."""
    assert docker("configuration", file, *TARGET, "--dry-run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["runtime"], found["dry_run"], found["changed"]) == ("docker", True, True)
    assert '+  "registry-mirrors": ["http://127.0.0.1:1"],"dns": ["1.1.1.1"]}' in found["diff"]
    assert file.read_text() == USERS
    assert docker("configuration", file, *TARGET, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["file"], found["changed"], found["diff"]) == (str(file), True, [])
    assert [each["answers"] for each in found["mirrors"]] == [False]
    assert docker("cleanup", file, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "runtime": "docker",
        "file": str(file),
        "restored": True,
    }


@pytest.mark.parametrize(
    ("command", "options", "named"),
    [
        ("configuration", [], "--mirror-targets (or MIRROR_TARGETS) is missing"),
        ("configuration", [*TARGET, "--mirrored-registries", "quay.io"], "--mirrored-registries:"),
        ("cleanup", ["--addr", ":8080"], "--addr: the probe is for Pods"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(
    command: str, options: list[str], named: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert docker(command, file, *options) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"spegel-py: {named}")
    assert err.count("\n") == 1
    assert file.read_text() == USERS


def test_a_file_that_cannot_be_edited_is_named(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("{")
    assert docker("configuration", file, *TARGET) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"spegel-py: {file}: it is not JSON")
    assert "nothing was changed" in err
    assert file.read_text() == "{"
