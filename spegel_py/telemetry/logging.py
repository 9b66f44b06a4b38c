"""Structured logging: events with fields, one JSON object or one line each, on stderr."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, Literal, TextIO, cast

import structlog

from spegel_py import values
from spegel_py.settings import Setting

LogFormat = Literal["console", "json", "text"]
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

REPORT_FORMAT = Setting(
    "log_format",
    values.text,
    "text",
    "sentences on stdout (text), or a log on stderr: one JSON object a line (json), or lines for "
    "people (console)",
    choices=("text", "json", "console"),
)
REPORTING = (LOG_LEVEL, REPORT_FORMAT)
"""The settings of the log of commands that people run, and programs too."""


class Stderr:
    """The stderr of the process, as it is at each write. A line that cannot be written is lost.

    A log on a full disk, or a pipe whose reader has gone, must not break a pull. Nor may it change
    the exit status: Python buffers text that it could not write, tries again at the end, and then
    exits with status 120. So the text is written to the descriptor itself, past that buffer.
    """

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            _write(text)
        return len(text)

    def flush(self) -> None:
        """Do nothing: no text is buffered here."""


def _write(text: str) -> None:
    """Write a text to stderr. Raises OSError, and ValueError if stderr is closed."""
    try:
        descriptor = sys.stderr.fileno()
    except io.UnsupportedOperation:  # a test replaced stderr
        sys.stderr.write(text)
        return
    data = text.encode(errors="backslashreplace")
    while data:
        data = data[os.write(descriptor, data) :]


class FaultLog:
    """Logs faults of this node that a stranger can cause repeatedly: each type of error once."""

    def __init__(self, log: structlog.typing.FilteringBoundLogger) -> None:
        self._log = log
        self._logged: set[type[Exception]] = set()

    def log_once(self, event: str, error: Exception, **fields: object) -> None:
        """Log an error with its traceback, unless an error of its type was logged before."""
        if type(error) not in self._logged:
            self._logged.add(type(error))
            self._log.error(event, error=repr(error)[:500], exc_info=error, **fields)


def configure(*, level: str, log_format: LogFormat) -> None:
    """Set up structlog for the process; third-party loggers log errors only, to the same stream."""
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer: structlog.typing.Processor
    match log_format:
        case "json":
            renderer = structlog.processors.JSONRenderer()
        case "console":
            renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        case "text":
            renderer = _sentence
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


def _sentence(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    """Return an event as a sentence, as in `warning: replicas are not released (error: …)`."""
    level, _ = event.pop("level"), event.pop("timestamp", None)
    text = str(event.pop("event"))
    fields = ", ".join(f"{name}: {value}" for name, value in event.items())
    about = f" ({fields})" if fields else ""
    return f"{text}{about}" if level == "info" else f"{level}: {text}{about}"
