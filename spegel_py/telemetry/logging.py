"""Structured logging: events with fields, one JSON object or one console line each, on stderr."""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress
from typing import Literal, TextIO, cast

import structlog

from spegel_py import values
from spegel_py.settings import Setting

LogFormat = Literal["console", "json"]
LEVELS = ("DEBUG", "INFO", "WARN", "WARNING", "ERROR")

LOG_LEVEL = Setting(
    "log_level",
    lambda given: values.text(given).upper(),
    "INFO",
    "lowest level that is logged",
    choices=LEVELS,
)
LOG_FORMAT = Setting(
    "log_format",
    values.text,
    "json",
    "one JSON object a line (json), or lines for people (console)",
    choices=("json", "console"),
)
LOGGING = (LOG_LEVEL, LOG_FORMAT)
"""The settings of the log, which several commands have."""


class Stderr:
    """The process's stderr as it is at each write; a line that cannot be written is lost, and nothing else is.

    A log on a full disk, or a pipe whose reader has gone, must not break a pull. Nor may it change the exit status:
    Python keeps what it could not write in a buffer, tries once more at the end, and then ends with status 120. So the
    text goes to the descriptor itself, past that buffer.
    """

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            _write(text)
        return len(text)

    def flush(self) -> None:
        """Do nothing: no text waits here."""


def _write(text: str) -> None:
    """Write a text to stderr. Raises OSError, and ValueError where stderr is closed."""
    try:
        descriptor = sys.stderr.fileno()
    except io.UnsupportedOperation:  # a test has put an object of its own there
        sys.stderr.write(text)
        return
    data = text.encode(errors="backslashreplace")
    while data:
        data = data[os.write(descriptor, data) :]


class Faults:
    """Logs faults of this node that a stranger can cause again and again: each kind of error once."""

    def __init__(self, log: structlog.typing.FilteringBoundLogger) -> None:
        self._log = log
        self._told: set[type[Exception]] = set()

    def tell(self, event: str, error: Exception, **fields: object) -> None:
        """Log an error with its traceback, unless one of its kind was logged before."""
        if type(error) not in self._told:
            self._told.add(type(error))
            self._log.error(event, error=repr(error)[:500], exc_info=error, **fields)


def configure(*, level: str, log_format: LogFormat) -> None:
    """Set up structlog for the process, and keep third-party loggers to warnings on the same stream."""
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    stderr = cast("TextIO", Stderr())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        level=logging.ERROR, stream=stderr, format="%(levelname)s %(name)s %(message)s"
    )
