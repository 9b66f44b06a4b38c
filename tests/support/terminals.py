"""Programs on a terminal of a known size, as a person sees them."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>()][0-9A-Za-z]?|\x1b\][^\x07]*\x07")

DEADLINE = 60.0
"""Seconds within which a program must have written the expected text."""


class Terminal:
    """A program's terminal; `output` is all that the program has written so far."""

    def __init__(self, program: subprocess.Popen[bytes], descriptor: int) -> None:
        self._program = program
        self._descriptor = descriptor
        self._written = bytearray()

    @property
    def output(self) -> str:
        return self._written.decode(errors="replace")

    def forget(self) -> None:
        """Begin a new page: `output` is what comes from here on."""
        self._written.clear()

    def type(self, text: str) -> None:
        """Type keys."""
        os.write(self._descriptor, text.encode())

    def read(self, *expected: str, deadline: float = DEADLINE) -> str:
        """Read until all expected texts were written, or without any to the program's end."""
        end = time.monotonic() + deadline
        while not expected or not all(each in self.output for each in expected):
            left = end - time.monotonic()
            if left <= 0:
                raise AssertionError(f"{expected} did not come, but:\n{self.output[-4000:]}")
            if select.select([self._descriptor], [], [], min(left, 0.2))[0]:
                data = b""
                with suppress(OSError):  # the program has closed the terminal
                    data = os.read(self._descriptor, 65536)
                if not data:
                    break
                self._written += data
        return self.output

    def status(self) -> int:
        """Wait for the end of the program and return its exit status."""
        self.read()
        return self._program.wait(DEADLINE)


@contextmanager
def terminal(
    command: Sequence[str],
    *,
    columns: int = 80,
    rows: int = 200,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Terminal]:
    """Run a program on a terminal; it is ended with the block."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    plain = {name: text for name, text in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**plain, "TERM": "xterm-256color", **(environment or {})},
        start_new_session=True,
    ) as program:
        os.close(theirs)
        try:
            yield Terminal(program, ours)
        finally:
            program.kill()
            os.close(ours)


def shown(output: str) -> list[str]:
    """Return the lines of an output as they stand on the screen at the end, without colours.

    Text before a carriage return was written over.
    """
    lines = _SEQUENCE.sub("", output).replace("\r\n", "\n").split("\n")
    return [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines]
