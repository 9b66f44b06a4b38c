"""The address and certificates of a registry, as containerd's hosts.toml has them."""

from __future__ import annotations

import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from spegel_py.errors import ConfigError
from spegel_py.preheat.registry_lookup import registry_url
from spegel_py.tools.addresses import registry_folders

MAX_FILE = 1024 * 1024
"""Bytes of the longest hosts.toml that is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamHost:
    """Where a registry is asked.

    Args:
        url: the URL before `/manifests/` without the repository, as in `https://host/v2`.
        authorities: files of certificate authorities; none for those of the system.
        clients: certificates by which this machine identifies itself, each with its key.
        is_unverified: True if the registry's certificate is not checked.
    """

    url: str
    authorities: tuple[Path, ...] = ()
    clients: tuple[tuple[Path, Path], ...] = ()
    is_unverified: bool = False

    def tls(self) -> ssl.SSLContext:
        """Return the TLS settings. It reads files. Raises ConfigError."""
        try:
            context = ssl.create_default_context()
            for file in self.authorities:
                context.load_verify_locations(file)
            for certificate, key in self.clients:
                context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"hosts.toml: {self._files()}: {getattr(error, 'strerror', None) or error}; this "
                "node needs to read the certificates of its registries"
            ) from None
        if self.is_unverified:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def _files(self) -> str:
        return ", ".join(map(str, (*self.authorities, *(file for file, _ in self.clients))))


def read_upstream(root: Path | None, registry: str, *, plain: frozenset[str]) -> UpstreamHost:
    """Return where a registry is asked. It reads a file. Raises ConfigError.

    Args:
        root: the folder of containerd's hosts.toml files; None to use none.
        registry: the registry in the canonical spelling.
        plain: registries that are asked without TLS, if no hosts.toml names a server.
    """
    usual = UpstreamHost(url=f"{registry_url(registry, plain=plain)}/v2")
    if root is None:
        return usual
    for name in (*registry_folders(registry), "_default"):
        path = root / name / "hosts.toml"
        try:
            with path.open("rb") as file:
                return parse_upstream(file.read(MAX_FILE), path.parent, usual)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        except (ValueError, RecursionError):
            raise ConfigError(f"{path} is not TOML") from None
    return usual


def parse_upstream(data: bytes, folder: Path, usual: UpstreamHost) -> UpstreamHost:
    """Return the server that a hosts.toml names, else the usual one with its certificates. Pure.

    Raises ValueError for a file that is not TOML.
    """
    found = tomllib.loads(data.decode())
    return UpstreamHost(
        url=_url(found, usual),
        authorities=tuple(folder / each for each in _texts(found.get("ca"))),
        clients=tuple(_pairs(folder, found.get("client"))),
        is_unverified=found.get("skip_verify") is True,
    )


def _url(found: Mapping[str, Any], usual: UpstreamHost) -> str:
    """Return the server's URL. containerd adds `/v2` to its path, unless `override_path` is set."""
    server = found.get("server")
    if not isinstance(server, str) or not server:
        return usual.url
    try:
        parts = urlsplit(server if "://" in server else f"https://{server}")
    except ValueError:  # brackets that are no address
        return usual.url
    path = parts.path.rstrip("/")
    if found.get("override_path") is not True and not path.endswith("/v2"):
        path += "/v2"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{path}"


def _texts(given: Any) -> list[str]:
    items = given if isinstance(given, list) else [given]
    return [each for each in items if isinstance(each, str) and each]


def _pairs(folder: Path, given: Any) -> list[tuple[Path, Path]]:
    """Return certificates with keys: `client` is a file, a list of files, or a list of pairs."""
    found = []
    for each in given if isinstance(given, list) else [given]:
        match each:
            case str() if each:
                found.append((folder / each, folder / each))
            case [str(certificate), str(key)] if certificate:
                found.append((folder / certificate, folder / (key or certificate)))
    return found
