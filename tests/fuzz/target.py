"""What a fuzz target is, and how one input is judged."""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).with_name("corpus")
"""Has a folder for each target, with the inputs that once were crashes, and others worth
keeping.
"""

SLOW = 1.0
"""Seconds of CPU that one input may take. Inputs are short, so a parser that takes longer is not
linear.
"""

HANGS = 5.0
"""Seconds of CPU after which an input is given up."""

STANDS_STILL = 180.0
"""Seconds, with or without CPU, after which an input is given up where a Watchdog looks on."""

Check = Callable[[bytes], object]
"""Gives an input to what is under test. Raises AssertionError where what came of it is wrong."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One parser. `open` prepares it, and gives the check that each input is passed to.

    `examples` are inputs that are right, from which wrong ones are made. `refuses` are the errors
    that the parser is documented to raise: any other is a crash. `structured` makes inputs that are
    nearly right. An input that takes more than `slow` seconds of CPU is a crash too.
    """

    name: str
    examples: tuple[bytes, ...]
    open: Callable[[], AbstractContextManager[Check]]
    refuses: tuple[type[Exception], ...] = ()
    structured: st.SearchStrategy[bytes] = field(default_factory=st.nothing)
    slow: float = SLOW

    def corpus(self) -> list[Path]:
        """Return the files with inputs that are kept, in a fixed order."""
        return sorted(path for path in (CORPUS / self.name).glob("*") if path.is_file())


def target(
    name: str,
    *,
    examples: tuple[bytes, ...],
    refuses: tuple[type[Exception], ...] = (),
    structured: st.SearchStrategy[bytes] | None = None,
    slow: float = SLOW,
) -> Callable[[Check], Target]:
    """Return a decorator that makes a target of a check that needs no preparation."""

    def make(check: Check) -> Target:
        return Target(
            name=name,
            examples=examples,
            open=lambda: nullcontext(check),
            refuses=refuses,
            structured=st.nothing() if structured is None else structured,
            slow=slow,
        )

    return make


@dataclass(frozen=True, slots=True)
class Crash:
    """An input that is a crash. Crashes of one `kind` have one cause, as far as a stack can
    tell.
    """

    data: bytes
    kind: str
    text: str


class Hangs(BaseException):
    """An input takes too long. No Exception, so that no parser catches it."""


def check_text(error: Exception, longest: int = 2000) -> None:
    """Raise AssertionError for an error that is no line for a person, of so many characters at
    most.
    """
    assert len(str(error)) <= longest
    assert "\n" not in str(error)


class Watchdog:
    """A thread that has an input given up which waits for ever."""

    def __init__(self) -> None:
        self.since: float | None = None
        self._main = threading.get_ident()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            time.sleep(1)
            if self.since is not None and time.monotonic() - self.since > STANDS_STILL:
                signal.pthread_kill(self._main, signal.SIGPROF)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look on while the block lasts."""
        self.since = time.monotonic()
        try:
            yield
        finally:
            self.since = None


def attempt(tried: Target, check: Check, data: bytes) -> Crash | None:
    """Return the crash that an input is, None if it is none.

    An input that takes too long is tried once more: the first time may have paid for a collection
    of garbage.
    """
    crash, seconds = _once(tried, check, data)
    if crash is None and seconds > tried.slow:
        crash, again = _once(tried, check, data)
        seconds = min(seconds, again)
    if crash is None and seconds > tried.slow:
        return Crash(data, "slow", f"{seconds:.1f} s of CPU")
    return crash


def _once(tried: Target, check: Check, data: bytes) -> tuple[Crash | None, float]:
    began, crash = time.process_time(), None
    try:
        with _given_up_after(HANGS):
            check(data)
    except tried.refuses:
        pass
    except Hangs as error:
        crash = Crash(data, "hangs", "".join(traceback.format_exception(error)))
    except Exception as error:
        crash = Crash(data, _kind(error), "".join(traceback.format_exception(error)))
    return crash, time.process_time() - began


def _kind(error: Exception) -> str:
    """Return an error's type and the last line of the project that it came through; a recursion has
    only its first.
    """
    lines = [
        each
        for each in traceback.extract_tb(error.__traceback__)
        if Path(each.filename).is_relative_to(ROOT)
    ]
    ours = [each for each in lines if "/.venv/" not in each.filename and each.filename != __file__]
    at = (ours[0] if isinstance(error, RecursionError) else ours[-1]) if ours else None
    return (
        f"{type(error).__name__} at {Path(at.filename).relative_to(ROOT)}:{at.lineno}"
        if at
        else repr(error)
    )


@contextmanager
def _given_up_after(seconds: float) -> Iterator[None]:
    """Raise Hangs in the main thread when the process has used so many seconds of CPU."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise Hangs(f"more than {seconds:g} s of CPU, or {STANDS_STILL:g} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
