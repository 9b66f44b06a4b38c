"""Credentials for registries: docker's config.json, in one file or in a folder of named files.

Only user names with passwords are read. A credential helper is a program, and none is run. Nothing
of a file's content ever stands in an error or in the log.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiofiles

from spegel_py.errors import ConfigError
from spegel_py.oci.reference import Reference, canonical_registry
from spegel_py.tools.basic_auth import Credentials

FILES = ("config.json", ".dockerconfigjson")
"""Names of the file that is used where none is named: docker's, and the key of a Kubernetes Secret
of type kubernetes.io/dockerconfigjson."""

MAX_FILE = 1024 * 1024
"""Bytes of the largest file that is read: the limit of a Kubernetes Secret."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_ANYTHING = Reference("registry.invalid", "anything", tag="1")
_SCHEME = re.compile(r"^https?://", re.IGNORECASE)


class RegistryCredentials:
    """The credentials below `path`, a file or a folder; without one there are none.

    A file is read at each use, so that a Secret that changes needs no restart.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def __repr__(self) -> str:
        return f"<RegistryCredentials {self._path}>"

    async def find(self, reference: Reference, *, name: str = "") -> Credentials | None:
        """Return the credentials for a repository; None if the file has none for it.

        Args:
            name: a file below the folder, as in `team-a` or `team-a.json`; empty for `config.json`.

        Raises ConfigError, which names the file and the fault.
        """
        path = self._file(name)
        if path is None:
            return None
        try:
            async with aiofiles.open(path, "rb") as file:
                data = await file.read(MAX_FILE + 1)
        except OSError as error:
            raise ConfigError(f"--registry-credentials: {path}: {error.strerror}") from None
        return credentials_in(data, reference, where=str(path))

    async def fault(self, name: str = "") -> str:
        """Return the fault of a file of credentials; empty if it can be used, or there is none."""
        try:
            await self.find(_ANYTHING, name=name)
        except ConfigError as error:
            return str(error)
        return ""

    def changed(self, name: str = "") -> int:
        """Return the time at which the file was last changed, in nanoseconds; 0 without one."""
        try:
            path = self._file(name)
            return path.stat().st_mtime_ns if path is not None else 0
        except (OSError, ConfigError):
            return 0

    def _file(self, name: str) -> Path | None:
        """Return the file with this name; None for the unnamed one if there is none."""
        folder = self._path
        if folder is None:
            if name:
                raise ConfigError(f"credentials {name!r}: --registry-credentials is not set")
            return None
        if not folder.is_dir():
            if name:
                raise ConfigError(
                    f"credentials {name!r}: --registry-credentials {folder} is a file, not a folder"
                )
            return folder
        if name and not _NAME.fullmatch(name):
            raise ConfigError(f"credentials {name[:80]!r}: this is no name of a file")
        choices = (name, f"{name}.json", *(f"{name}/{each}" for each in FILES)) if name else FILES
        for each in choices:
            if (path := folder / each).is_file():
                return path
        if name:
            raise ConfigError(f"credentials {name!r}: {folder} has no file of that name")
        return None


def credentials_in(data: bytes, reference: Reference, *, where: str) -> Credentials | None:
    """Return the credentials that a config.json has for a repository; None for none. Pure.

    An entry with a path is for the repositories below it. The longest one counts, as in the
    kubelet. Raises ConfigError.
    """
    config = _parsed(data, where)
    entries = config.get("auths") or {}
    if not isinstance(entries, Mapping):
        raise ConfigError(f"--registry-credentials: {where}: auths is no mapping of registries")
    fitting = {key: rank for key in entries if (rank := _rank(str(key), reference)) is not None}
    if not fitting:
        if config.get("credsStore") or _has_helper(config, reference):
            raise ConfigError(
                f"--registry-credentials: {where}: it names a credential helper, and helpers are "
                "not run; write user and password below auths"
            )
        return None
    key = max(fitting, key=lambda each: fitting[each])
    return _credentials(entries[key], f"{where}: auths.{str(key)[:100]}")


def _parsed(data: bytes, where: str) -> Mapping[str, Any]:
    if len(data) > MAX_FILE:
        raise ConfigError(f"--registry-credentials: {where} has more than {MAX_FILE} bytes")
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):
        raise ConfigError(f"--registry-credentials: {where} is not JSON") from None
    if not isinstance(config, Mapping):
        raise ConfigError(f"--registry-credentials: {where} is no JSON object")
    return config


def _rank(key: str, reference: Reference) -> int | None:
    """Return the length of an entry's path; None if the entry is not for the repository."""
    host, _, path = _SCHEME.sub("", key).partition("/")
    path = path.strip("/")
    if path in ("v1", "v2"):  # docker's old form: https://index.docker.io/v1/
        path = ""
    if canonical_registry(host) != canonical_registry(reference.registry):
        return None
    if path and not f"{reference.repository}/".startswith(f"{path}/"):
        return None
    return len(path)


def _has_helper(config: Mapping[str, Any], reference: Reference) -> bool:
    helpers = config.get("credHelpers")
    return isinstance(helpers, Mapping) and any(
        _rank(str(key), reference) is not None for key in helpers
    )


def _credentials(entry: object, where: str) -> Credentials | None:
    fault = f"--registry-credentials: {where}"
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{fault} is no object with a user and a password")
    if entry.get("identitytoken"):
        raise ConfigError(f"{fault} has an identity token; only user and password are supported")
    username, password = entry.get("username"), entry.get("password")
    if written := entry.get("auth"):
        try:
            pair = base64.b64decode(written, validate=True).decode()
        except (binascii.Error, ValueError, TypeError):
            raise ConfigError(f"{fault}.auth is not base64 of user:password") from None
        username, colon, password = pair.rstrip("\0").partition(":")
        if not colon:
            raise ConfigError(f"{fault}.auth is not base64 of user:password")
    if not username and not password:
        return None
    if not isinstance(username, str) or not isinstance(password, str):
        raise ConfigError(f"{fault} has no user and password as text")
    return Credentials(username=username, password=password)
