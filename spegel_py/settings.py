"""How settings are read: one table of settings, filled from flag > environment > file > default.

Every setting has one name; its flag is `--name`, its environment variable `NAME`, its YAML key `name` (or nested:
`health: {interval: 10s}` is `health_interval`). Whatever is unknown or malformed is named where it stands.
"""

from __future__ import annotations

import argparse
import csv
import io
import ipaddress
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import yaml

from spegel_py.errors import ConfigError
from spegel_py.oci.filters import Pattern
from spegel_py.tools.addresses import is_http_url, split_host_port

Parse = Callable[[Any], Any]
"""Returns a setting's value from text (flag, environment) or a YAML value; ValueError saying what it should be."""

_DURATION_PART = re.compile(r"(\d++(?:\.\d++)?)(ms|s|m|h)")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern})+")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_OPEN_COUNT, _REST_OF_COUNT = re.compile(r"\{[0-9]*$"), re.compile(r"^[0-9]*\}")
MAX_QUOTED = 200
"""Characters of a value that an error shows."""

_SHORTENED = reprlib.Repr()
_SHORTENED.maxlevel = 2
_SHORTENED.maxstring = _SHORTENED.maxother = _SHORTENED.maxlong = 160
_TRUE, _FALSE = ("true", "1", "t", "yes", "on"), ("false", "0", "f", "no", "off")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its name (snake case), how it is read, its default and what it means."""

    name: str
    parse: Parse
    default: Any
    help: str
    many: bool = False
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return self.name.upper()


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are ConfigErrors: one line, no usage dump."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def add_flags(parser: argparse.ArgumentParser, settings: Sequence[Setting]) -> None:
    """Give the parser a flag for each setting; values stay text until `resolve`."""
    for setting in settings:
        text = (
            f"{setting.help} (default: {_shown(setting.default)}; env {setting.variable})".replace(
                "%", "%%"
            )
        )
        if setting.many:
            action = parser.add_argument(
                setting.flag,
                dest=setting.name,
                nargs="*",
                action="extend",
                help=text,
                metavar="VALUE",
            )
        elif setting.parse is boolean:
            action = parser.add_argument(
                setting.flag, dest=setting.name, nargs="?", const="true", help=text, metavar="BOOL"
            )
        else:
            action = parser.add_argument(
                setting.flag, dest=setting.name, help=text, metavar="VALUE"
            )
        # for completion; as choices of argparse's they would be checked here, and not in the other places
        action.offers = ("true", "false") if setting.parse is boolean else setting.choices  # type: ignore[attr-defined]
        action.is_path = setting.parse is path  # type: ignore[attr-defined]


def resolve(
    settings: Sequence[Setting],
    *,
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    file: Path | None,
) -> dict[str, Any]:
    """Return every setting's value by name. Raises ConfigError naming the flag, variable or key at fault."""
    keys = _read(file, {setting.name for setting in settings}) if file else {}
    return {setting.name: _value(setting, flags, environment, keys, file) for setting in settings}


def _value(
    setting: Setting,
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    keys: Mapping[str, Any],
    file: Path | None,
) -> Any:
    if (given := flags.get(setting.name)) is not None:
        return _parsed(setting, given, f"{setting.flag}")
    if given := environment.get(setting.variable):
        return _parsed(setting, given, f"environment variable {setting.variable}", is_variable=True)
    if (given := keys.get(setting.name)) is not None:
        return _parsed(setting, given, f"{file}: {setting.name}")
    return setting.default


def _parsed(setting: Setting, given: Any, where: str, *, is_variable: bool = False) -> Any:
    try:
        value = setting.parse(_values(given) if setting.many and is_variable else given)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: {' '.join(str(error).split())[:1000]}") from error
    if setting.choices and value not in setting.choices:
        raise ConfigError(f"{where}: {quoted(given)} is not one of {', '.join(setting.choices)}")
    return value


def _values(variable: str) -> list[str]:
    """Return the values of a variable that holds several, separated by commas or line breaks.

    It is read as a CSV file is; Spegel reads its lists in the same way. A value that has a comma
    itself stands in double quotes.
    """
    try:
        lines = io.StringIO(variable, newline="")
        rows = list(csv.reader(lines, strict=True, skipinitialspace=True))
    except csv.Error as error:
        fault = f"{quoted(variable)} should be values with commas between them: {error}"
        raise ValueError(fault) from error
    return [value.strip() for row in rows for value in row if value.strip()]


def _read(file: Path, known: set[str]) -> dict[str, Any]:
    try:
        data = yaml.safe_load(file.read_text())
    except OSError as error:
        raise ConfigError(f"--config: {file} cannot be read: {error.strerror}") from error
    except Exception as error:
        raise ConfigError(
            f"--config: {file} is not YAML: {' '.join(str(error).split())[:300]}"
        ) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"--config: {file} holds no mapping of settings")
    flat: dict[str, Any] = {}
    _flatten(data, "", "", known, flat, file)
    return flat


def _flatten(
    data: Mapping[Any, Any],
    prefix: str,
    path: str,
    known: set[str],
    flat: dict[str, Any],
    file: Path,
) -> None:
    for key, value in data.items():
        name, where = f"{prefix}{key}", f"{path}{key}"
        if name in known:
            if name in flat:
                raise ConfigError(f"--config: {file}: {_shown_key(where)} is given twice")
            flat[name] = value
        elif isinstance(value, dict) and any(each.startswith(f"{name}_") for each in known):
            _flatten(value, f"{name}_", f"{where}.", known, flat, file)
        else:
            raise ConfigError(
                f"--config: {file}: unknown key {_shown_key(where)}{_hint(name[:160], known)}"
            )


def _shown_key(key: str) -> str:
    """Return a key as an error shows it: in one line, and not all of it where it is long."""
    return key[:160] if key.isprintable() else repr(key[:160])


def _hint(name: str, known: set[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _shown(value: Any) -> str:
    if value is None or value == "" or value == ():
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


# How values are read


def text(given: Any) -> str:
    """Any text."""
    if isinstance(given, (dict, list)):
        raise ValueError(f"{quoted(given)} should be text")
    return str(given)


def quoted(given: Any) -> str:
    """Return a value as it is shown in an error: not all of it where it is long, or holds itself a billion times."""
    shown = _SHORTENED.repr(given)
    return shown if len(shown) <= MAX_QUOTED else f"{shown[:MAX_QUOTED]}…"


def _written(given: Any) -> str:
    """Return a value as text; empty for a list or a mapping, which none of these values is."""
    return "" if isinstance(given, (dict, list)) else str(given)


def boolean(given: Any) -> bool:
    """true or false."""
    if isinstance(given, bool):
        return given
    if _written(given).lower() in _TRUE:
        return True
    if _written(given).lower() in _FALSE:
        return False
    raise ValueError(f"{quoted(given)} should be true or false")


def duration(given: Any) -> float:
    """A duration as Go writes it (20ms, 1m30s, 0) in seconds."""
    written = _written(given).strip()
    if written == "0":
        return 0.0
    if not _DURATION.fullmatch(
        written
    ):  # looked for at its beginning only, since it may be one long number
        raise ValueError(f"{quoted(given)} should be a duration such as 20ms, 5s or 1m30s")
    parts = _DURATION_PART.findall(written)
    return float(sum(float(number) * _UNITS[unit] for number, unit in parts))


def integer(low: int, high: int) -> Parse:
    """A whole number within bounds."""

    def parse(given: Any) -> int:
        try:
            number = int(_written(given))
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ValueError(f"{quoted(given)} should be a whole number from {low} to {high}")
        return number

    return parse


def seconds(low: float, high: float) -> Parse:
    """A duration within bounds, in seconds."""

    def parse(given: Any) -> float:
        value = duration(given)
        if not low <= value <= high:
            raise ValueError(f"{quoted(given)} should lie between {low:g}s and {high:g}s")
        return value

    return parse


def path(given: Any) -> Path | None:
    """A path; empty for none."""
    return Path(text(given)) if text(given) else None


def texts(given: Any) -> tuple[str, ...]:
    """Several values: separate arguments, or one text with commas."""
    items = given if isinstance(given, list) else [given]
    return tuple(part.strip() for item in items for part in text(item).split(",") if part.strip())


def patterns(given: Any) -> tuple[Pattern, ...]:
    """Regular expressions in Go's syntax: separate arguments, or a YAML list.

    A comma is part of the expression. Spegel's filters are expressions of Go, whose syntax and
    meaning are RE2's. Both match in linear time.
    """
    items = [text(item) for item in (given if isinstance(given, list) else [given])]
    for item, following in pairwise(items):
        if _OPEN_COUNT.search(item) and _REST_OF_COUNT.search(following):
            halves = f"{quoted(item)} and {quoted(following)}"
            raise ValueError(f"{halves} look like one expression: put it in double quotes")
    return tuple(_pattern(item) for item in items)


def _pattern(written: str) -> Pattern:
    import re2  # 1 MB of memory, which only a node that has filters pays

    options = re2.Options()
    options.log_errors = False  # on standard error, past the log
    options.never_capture = True  # the text of a group is not wanted, and finding it takes longer
    try:
        found: Pattern = re2.compile(written, options)
    except (re2.error, UnicodeEncodeError) as error:
        cause = (
            error.args[0].decode(errors="replace") if isinstance(error, re2.error) else str(error)
        )
        fault = f"{quoted(written)} is not a regular expression of Go (RE2): {cause[:200]}"
        raise ValueError(fault) from error
    return found


def address(given: Any) -> str:
    """host:port or :port to listen on; the host is an IP literal."""
    written = text(given)
    try:
        host, _ = split_host_port(written)
        if host:
            ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(
            f"{quoted(written)} should be an address such as :5000, 10.0.0.1:5000 or [::1]:5000"
        ) from None
    return written


def traces_url(given: Any) -> str | None:
    """A URL that spans are sent to, empty for none; a collector's own address gets the path that OTLP has for them."""
    written = text(given)
    if not written:
        return None
    if not is_http_url(written):
        raise ValueError(f"{quoted(written)} should be a URL such as http://collector:4318")
    return (
        written if urlsplit(written).path not in ("", "/") else f"{written.rstrip('/')}/v1/traces"
    )
