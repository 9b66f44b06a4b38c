"""The command line of an operator: an error is one line and status 2, never a traceback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from spegel_py import __version__
from spegel_py.cli import main
from spegel_py.routing.libp2p.identity import load_or_create
from tests.support.routers import free_port


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave this process's logging alone: loggers that were used once keep their set-up."""
    monkeypatch.setattr("spegel_py.telemetry.logging.configure", lambda **_: None)


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = main(arguments)
    out, err = capsys.readouterr()
    return status, out, err


def layout(root: Path) -> Path:
    (root / "blobs" / "sha256").mkdir(parents=True)
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (root / "index.json").write_text('{"schemaVersion": 2, "manifests": []}')
    return root


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """`version` prints text or JSON."""
    assert run("version", capsys=capsys) == (0, f"{__version__}\n", "")
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"{__version__}\n"
    for flags in (("--format", "json"), ("--json",)):
        assert json.loads(run("version", *flags, capsys=capsys)[1]) == {"version": __version__}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "COMMAND"),
        (
            ["registri"],
            "there is no command 'registri'; did you mean registry?; see spegel-py --help",
        ),
        (
            ["status", "--metric-addr", ":1"],
            "there is no flag '--metric-addr'; did you mean --metrics-addr?; see spegel-py status",
        ),
        (["why", "--lmit=3"], "did you mean --limit?; see spegel-py why --help"),
        (["peers", "extra"], "unexpected argument 'extra'; see spegel-py peers --help"),
        (["--wide", "status"], "--wide must stand after the command; see spegel-py status --help"),
        (["registry", "--registry-adr", ":1"], "--registry-adr"),
        (["registry", "--registry-addr", "nonsense"], "--registry-addr: 'nonsense'"),
        (["registry", "--announce-interval", "5"], "--announce-interval: '5' should be a duration"),
        (
            ["registry", "--registry-filters", "("],
            "--registry-filters: '(' is not a regular expression",
        ),
        (["registry", "--config", "/nowhere.yaml"], "--config: /nowhere.yaml"),
        (["registry", "--oci-layout", "/nowhere"], "/nowhere"),
        (["registry", "--warn-when-isolated-for", "5s"], "--warn-when-isolated-for: '5s'"),
        (["alerts", "--data-dir", "/nowhere"], "--data-dir: there is no folder /nowhere"),
        (["alerts", "--node", "http://"], "--node: 'http://' is no URL of a node"),
        (["registry", "--log-level", "LOUD"], "--log-level: 'LOUD' is not one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_line_and_status_2(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error is named in one line on stderr."""
    status, out, err = run(*arguments, capsys=capsys)
    assert (status, out) == (2, "")
    assert err.startswith("spegel-py: ")
    assert err.count("\n") == 1
    assert named in err


def test_a_socket_that_is_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file where containerd's socket should be is not taken for one."""
    (tmp_path / "sock").write_text("")
    status, _, err = run("registry", "--containerd-sock", str(tmp_path / "sock"), capsys=capsys)
    assert status == 2
    assert "is not a socket" in err


def test_a_taken_port_is_named_with_its_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of the three ports, when in use, is an error that names its flag."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = f"127.0.0.1:{taken.getsockname()[1]}"
        folder = str(layout(tmp_path / "layout"))
        for flag in ("--registry-addr", "--metrics-addr", "--router-addr"):
            free = {
                name: f"127.0.0.1:{free_port()}"
                for name in ("--registry-addr", "--metrics-addr", "--router-addr")
            }
            given = [part for pair in (free | {flag: used}).items() for part in pair]
            status, _, err = run(
                "registry", "--oci-layout", folder, "--log-level", "ERROR", *given, capsys=capsys
            )
            assert status == 2, flag
            assert flag in err
            assert err.count("\n") == 1


def test_an_identity_others_can_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The node does not start with a key that is not private."""
    load_or_create(tmp_path / "data")
    (tmp_path / "data" / "private.key").chmod(0o640)
    folder = str(layout(tmp_path / "layout"))
    status, _, err = run(
        "registry", "--oci-layout", folder, "--data-dir", str(tmp_path / "data"), capsys=capsys
    )
    assert status == 2
    assert "chmod 600" in err


def test_a_peer_that_is_no_multiaddr_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A malformed bootstrap peer stops the start."""
    folder = str(layout(tmp_path / "layout"))
    status, _, err = run(
        "registry", "--oci-layout", folder, "--static-bootstrap-peers", "10.0.0.1", capsys=capsys
    )
    assert status == 2
    assert "--static-bootstrap-peers" in err


def test_the_module_is_the_program() -> None:
    """`python -m spegel_py` is the command line, status included."""
    done = subprocess.run(
        [sys.executable, "-m", "spegel_py", "registry", "--nonsense"],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"COLUMNS": "80"},
        check=False,
    )
    assert done.returncode == 2
    assert "--nonsense" in done.stderr
    assert "Traceback" not in done.stderr
