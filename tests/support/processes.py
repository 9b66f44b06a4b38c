"""Processes that a test starts and ends by their own id, never by name."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path


class Process:
    """One process with its output in a file; it is ended by its id."""

    def __init__(
        self, *, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._command = command
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self.log = log

    def __repr__(self) -> str:
        return f"<Process {self._command[0]} pid={self.pid}>"

    @property
    def pid(self) -> int | None:
        """Its id while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    @property
    def output(self) -> str:
        """All it has written."""
        return self.log.read_text(errors="replace")

    async def start(self, ready: Callable[[], Awaitable[bool]], *, deadline: float = 20.0) -> None:
        """Start it and wait until `ready` says yes; fails with its output if it ends or does not
        get ready.
        """
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(os.environ) | dict(self._environment or {}),
                start_new_session=True,
            )
        try:
            await until(ready, deadline=deadline, unless=lambda: self.pid is None)
        except TimeoutError as error:
            await self.end(signal.SIGKILL)
            raise AssertionError(
                f"{self._command} did not get ready:\n{self.output[-4000:]}"
            ) from error

    def send(self, number: int) -> None:
        """Send it a signal, if it runs; one that stops it has done so when this returns."""
        if (pid := self.pid) is None:
            return
        os.kill(pid, number)
        end = time.monotonic() + 5.0
        while number == signal.SIGSTOP and not _is_stopped(pid) and time.monotonic() < end:
            time.sleep(0.001)

    async def end(self, number: int = signal.SIGTERM, *, deadline: float = 10.0) -> None:
        """Send it a signal and wait until it has ended; killed if it takes longer than `deadline`
        seconds.
        """
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        os.kill(process.pid, signal.SIGCONT)  # a stopped one could not hear the other
        os.kill(process.pid, number)
        try:
            async with asyncio.timeout(deadline):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _is_stopped(pid: int) -> bool:
    """Say whether every thread of a process stands still, which takes each of them a moment."""
    states = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # a thread that has just ended
            states.append((task / "stat").read_text().rpartition(")")[2].split()[0])
    return all(state == "T" for state in states)


def end_in_good_order() -> None:
    """Have SIGTERM cancel the running task: what it started ends with it only if it ends in good
    order.
    """
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


async def run(
    *command: str, environment: Mapping[str, str] | None = None, deadline: float = 60.0
) -> str:
    """Run a command to its end and return what it wrote; fails with that if it fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(os.environ) | dict(environment or {}),
    )
    try:
        async with asyncio.timeout(deadline):
            output, _ = await process.communicate()
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    text = output.decode(errors="replace")
    if process.returncode:
        raise CommandFailed(f"{' '.join(command)} failed with {process.returncode}:\n{text}")
    return text


class CommandFailed(AssertionError):
    """A command did not succeed; the text holds its output."""


def descriptors() -> int:
    """Return how many descriptors this process has open.

    Garbage of earlier tests, which may hold sockets in cycles, is collected first.
    """
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def until(
    condition: Callable[[], Awaitable[bool]],
    *,
    deadline: float = 10.0,
    pause: float = 0.02,
    unless: Callable[[], bool] = lambda: False,
) -> None:
    """Wait until a condition holds; raises TimeoutError after `deadline` seconds or when `unless`
    says so.
    """
    async with asyncio.timeout(deadline):
        while not await condition():
            if unless():
                raise TimeoutError("it ended")
            await asyncio.sleep(pause)
