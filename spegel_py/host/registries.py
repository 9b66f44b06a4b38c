"""Registries and mirrors of the command line: URLs without a path, as in Spegel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from spegel_py.oci.filters import WILDCARDS
from spegel_py.tools.addresses import registry_folders

DEFAULT = "_default"
"""Name of containerd's folder for every registry without a folder of its own."""

MIRROR_PATH = (
    "; a mirror below a path (override_path) goes into that registry's own hosts.toml, and stays "
    "with "
    "--prepend-existing"
)
"""Advice on a path in a mirror's URL: the mirrors of this command have no path."""

REGISTRY_PATH = (
    "; containerd has one hosts.toml for a host: --registry-filters leaves out repositories of it"
)
"""Advice on a path in a registry's URL."""

_HOST = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?")


_FOLDER = re.compile(r"(.+)_(\d+)_")


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry to mirror: `host[:port]`, and the URL at which containerd continues.

    All registries are `_default` and None.
    """

    host: str
    server: str | None

    @property
    def text(self) -> str:
        """The registry in the form of the command line."""
        return f"{self.server.partition('://')[0]}://{self.host}" if self.server else self.host

    @property
    def folders(self) -> tuple[str, ...]:
        """Possible names of the registry's folder, in containerd's order."""
        return registry_folders(self.host)


def registry_of(folder: str) -> str:
    """Return the registry of a folder in `config_path`: `host:port` for `host_port_`."""
    found = _FOLDER.fullmatch(folder)
    return f"{found[1]}:{found[2]}" if found else folder


def parse_registries(texts: Sequence[str]) -> tuple[Registry, ...]:
    """Return the registries to mirror; none given means all. Raises ValueError.

    A registry without a scheme is asked as containerd asks it by itself: over https, unless it is
    on this machine.
    """
    found = tuple(dict.fromkeys(_registry(text) for text in texts or (DEFAULT,)))
    hosts = [registry.host for registry in found]
    if twice := {host for host in hosts if hosts.count(host) > 1}:
        raise ValueError(f"{min(twice)} is given with http and with https: leave one out")
    return found


def parse_targets(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the mirrors' URLs. Raises ValueError."""
    for text in texts:
        if text in WILDCARDS:
            raise ValueError(
                f"{text!r} stands for registries: a mirror is a URL such as http://127.0.0.1:5000"
            )
    return tuple(dict.fromkeys("{}://{}".format(*_parts(text, MIRROR_PATH)) for text in texts))


def _registry(text: str) -> Registry:
    if text in WILDCARDS:
        return Registry(DEFAULT, None)
    if "://" not in text:
        return Registry(_parts(f"https://{text}", REGISTRY_PATH)[1], None)
    scheme, host = _parts(text, REGISTRY_PATH)
    url = f"{scheme}://{host}"
    # docker.io is only a name. Its registry is another host, which hosts.toml must name.
    return Registry(host, "https://registry-1.docker.io" if url == "https://docker.io" else url)


def _parts(text: str, without_path: str) -> tuple[str, str]:
    """Return scheme and host. Raises ValueError; its text has `without_path` if there is a path."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise ValueError(f"{text!r} has no scheme: write https://{text} or http://{text}")
    if scheme not in ("http", "https"):
        raise ValueError(f"{text!r} should begin with http:// or https://")
    if any(mark in rest for mark in "/?#"):
        host = f"{scheme}://{urlsplit(text).netloc}"
        raise ValueError(
            f"{text!r} should be no more than a host and a port: write {host}{without_path}"
        )
    if "@" in rest:
        raise ValueError(
            "a user name has no place here: the mirror's credentials come from the basic-auth "
            "secret"
        )
    host = _bracketed(rest)
    valid = _HOST.fullmatch(host)
    if not valid or int(valid[1] or 1) not in range(1, 65536):
        raise ValueError(f"{text!r} should be a URL such as https://registry.example:5000")
    return scheme, host


def _bracketed(host: str) -> str:
    """Return an IPv6 host in brackets.

    Kubernetes puts a node's address before a port without brackets.
    """
    if host.count(":") < 2 or "[" in host:
        return host
    address, _, port = host.rpartition(":")
    return f"[{address}]:{port}"
