"""Logs as the outside sees them: one JSON object a line; and a log that cannot be written harms
nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

PROGRAM = """
import structlog, sys
from spegel_py.telemetry import logging
logging.configure(level="INFO", log_format="json")
log = structlog.get_logger("test")
log.debug("too fine")
log.info("peer failed", peer="A", error="no")
sys.stdout.write("went on")
"""


def run(*, stderr: int | IO[bytes], program: str = PROGRAM) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=stderr,
        timeout=60,
        check=True,
    )


def test_an_event_is_one_json_object_with_its_fields() -> None:
    """Levels below the one set are left out; the rest are objects with event, level and time."""
    lines = run(stderr=subprocess.PIPE).stderr.decode().splitlines()
    assert len(lines) == 1
    entry = json.loads(lines[0])
    assert (entry["event"], entry["level"], entry["peer"], entry["error"]) == (
        "peer failed",
        "info",
        "A",
        "no",
    )
    assert "timestamp" in entry


@pytest.mark.parametrize("is_buffered", [True, False])
@pytest.mark.parametrize("library", ["structlog", "logging"])
def test_a_log_on_a_full_disk_harms_nothing(
    is_buffered: bool, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a line cannot be written the program goes on, and ends well, whatever Python does with
    its buffers.
    """
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    if not is_buffered:
        monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    program = PROGRAM.replace(
        'log.debug("too fine")', "import logging as other; other.error('of a library')"
    )
    with Path("/dev/full").open("wb") as full:
        done = run(stderr=full, program=PROGRAM if library == "structlog" else program)
    assert (done.returncode, done.stdout) == (0, b"went on")


def test_an_output_that_cannot_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is named in one line, with status 1; a reader that has gone is the end, without a
    word.
    """
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    command = [sys.executable, "-m", "spegel_py", "version"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (
            1,
            b"spegel-py: the output cannot be written: No space left on device\n",
        )
        wrong = subprocess.run([*command, "--wrong"], stderr=full, timeout=60, check=False)
        assert wrong.returncode == 2
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        done = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("closed", [True, False])
def test_a_stderr_that_is_closed_or_replaced_harms_nothing(closed: bool) -> None:
    """A stderr that was closed is no error, and one that was replaced gets the lines."""
    change = "sys.stderr.close()" if closed else "sys.stderr = sys.stdout"
    done = run(stderr=subprocess.PIPE, program=PROGRAM.replace("log.debug", f"{change}; log.debug"))
    assert done.stdout.endswith(b"went on")
    assert (b"peer failed" in done.stdout) is not closed
