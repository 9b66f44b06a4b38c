"""Settings and their sources: flag, else environment variable, else YAML file, else default.

Every setting has one name. Its flag is `--name`, its environment variable `NAME`, and its YAML key
`name`. YAML may be nested: `health: {interval: 10s}` is `health_interval`. An error names the flag,
variable or key that is unknown or malformed.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from spegel_py import values
from spegel_py.errors import ConfigError

_SETTING = "setting"
"""Key of a dataclass field's metadata under which its setting is kept."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting: its name in snake case, the parser of its values, its default and its help.

    `many` settings take several values; one with `choices` takes only these.
    """

    name: str
    parse: values.Parse
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

    @property
    def shown_default(self) -> str:
        """The default as somebody would write it: a duration with its unit, nothing as none."""
        if self.default is None or self.default in ("", ()):
            return "none"
        if isinstance(self.default, bool):
            return str(self.default).lower()
        is_duration = isinstance(self.default, float)
        return values.written_duration(self.default) if is_duration else str(self.default)


def setting(
    parse: values.Parse,
    default: Any,
    help: str,  # noqa: A002 - the name that argparse has for it
    *,
    many: bool = False,
    choices: tuple[str, ...] = (),
) -> Any:
    """Declare a setting as a dataclass field; the field's name is the setting's name."""
    return declared(Setting("", parse, default, help, many=many, choices=choices))


def declared(shared: Setting) -> Any:
    """Declare a setting that several commands have as a field of a dataclass."""
    return field(default=shared.default, metadata={_SETTING: shared})


def declared_in(table: type) -> tuple[Setting, ...]:
    """Return the settings that the fields of a dataclass declare, in their order."""
    return tuple(replace(each.metadata[_SETTING], name=each.name) for each in fields(table))


class Parser(argparse.ArgumentParser):
    """An argument parser that raises ConfigError, in one line and without the usage.

    An unknown flag or command is answered with the most similar one, and with the `--help` of the
    command that was meant.
    """

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Raise ConfigError for arguments that no parser took."""
        # A value that follows an unknown flag is as unknown, but the flag is the mistake.
        first = next((each for each in unknown if each.startswith("-")), unknown[0])
        name = first.partition("=")[0]
        if not name.startswith("-"):
            self.error(f"unexpected argument {values.quoted(first)}")
        known = {flag for flag in self._option_string_actions if flag.startswith("--")}
        if name in known:
            self.error(f"{name} must stand after the command")
        self.error(f"there is no flag {values.quoted(name)}{_hint(name[:160], known)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            hint = _hint(str(value)[:160], set(action.choices))
            self.error(f"there is no command {values.quoted(value)}{hint}")
        super()._check_value(action, value)


def add_flags(parser: argparse.ArgumentParser, settings: Sequence[Setting]) -> None:
    """Give the parser a flag for each setting. Values stay text until `resolve` parses them."""
    for setting in settings:
        text = f"{setting.help} (default: {setting.shown_default}; env {setting.variable})".replace(
            "%", "%%"
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
        elif setting.parse is values.boolean or "true" in setting.choices:
            action = parser.add_argument(
                setting.flag, dest=setting.name, nargs="?", const="true", help=text, metavar="BOOL"
            )
        else:
            action = parser.add_argument(
                setting.flag, dest=setting.name, help=text, metavar="VALUE"
            )
        # For completion only. As argparse's own choices they would be checked for flags alone.
        offers = ("true", "false") if setting.parse is values.boolean else setting.choices
        action.offers = offers  # type: ignore[attr-defined]
        is_path = setting.parse in (values.path, values.needed_path)
        action.is_path = is_path  # type: ignore[attr-defined]


def resolve(
    settings: Sequence[Setting],
    *,
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    file: Path | None,
    others: Collection[str] = (),
) -> dict[str, Any]:
    """Return every setting's value by name. Raises ConfigError with the flag, variable or key.

    The file may have the settings of other commands too, whose names are `others`.
    """
    keys = _read(file, {*others, *(setting.name for setting in settings)}) if file else {}
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
        raise ConfigError(
            f"{where}: {values.quoted(given)} is not one of {', '.join(setting.choices)}"
        )
    return value


def _values(variable: str) -> list[str]:
    """Return the values of a variable, which commas or line breaks separate.

    The variable is read as a CSV file, as in Spegel. A value with a comma stands in double quotes.
    """
    try:
        lines = io.StringIO(variable, newline="")
        rows = list(csv.reader(lines, strict=True, skipinitialspace=True))
    except csv.Error as error:
        fault = f"{values.quoted(variable)} should be values with commas between them: {error}"
        raise ValueError(fault) from error
    return [value.strip() for row in rows for value in row if value.strip()]


def _read(file: Path, known: set[str]) -> dict[str, Any]:
    try:
        import yaml  # a node without a file does not load it

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
    """Return a key as an error shows it: in one line, shortened."""
    return key[:160] if key.isprintable() else repr(key[:160])


def _hint(name: str, known: set[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
