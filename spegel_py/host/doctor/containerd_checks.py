"""Checks of containerd: it answers, asks mirrors, and keeps the layers that it pulled. Pure."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from spegel_py.host.doctor.config_file import CRI, IMAGES
from spegel_py.host.doctor.facts import Facts, FileSettings, Unknown
from spegel_py.host.doctor.findings import Finding, error, ok, warning
from spegel_py.store.containerd import CriStatus, ImageSettings

OLDEST = (1, 6)
"""Oldest containerd version that is tested."""

TELLS_LAYERS = (2, 1)
"""Version from which containerd reports each layer when it arrives.

From this version it also pulls through its transfer service by default.
"""

HAS_DEFAULT = (2, 2)
"""Version from which an unset `config_path` has a default."""

DEFAULT_CONFIG_PATH = "/etc/containerd/certs.d:/etc/docker/certs.d"

STANDARD_FOLDER = Path("/etc/containerd/certs.d")
"""The folder that `configuration` changes by default."""


def check_containerd(facts: Facts) -> list[Finding]:
    """Check that containerd answers, with a known version."""
    match facts.version:
        case None:
            return []
        case Unknown(reason, remedy):
            start = (
                "systemctl restart containerd, or give its socket: --containerd-sock (now "
                f"{facts.subject.socket})"
            )
            return [error("containerd", reason, remedy or start)]
        case text:
            return [_version_finding(text, facts.subject.socket)]


def check_config_path(facts: Facts) -> list[Finding]:
    """Check that containerd searches the folder to which hosts.toml files are written."""
    check = "config_path"
    if facts.cri is None and facts.file is None:
        return []
    if isinstance(facts.cri, CriStatus) and not facts.cri.is_served:
        return [
            warning(
                check,
                "containerd serves no CRI: Kubernetes cannot pull here, ctr and nerdctl can",
                'for Kubernetes take "cri" out of disabled_plugins in '
                f"{facts.subject.config_file} and "
                "systemctl restart containerd (its log says so if the plugin failed); give ctr "
                "--hosts-dir "
                f"{facts.subject.certs or '/etc/containerd/certs.d'}",
            )
        ]
    settings = image_settings(facts)
    if isinstance(settings, Unknown):
        return [warning(check, settings.reason, settings.remedy)]
    return [_config_path_finding(facts, settings, f" (by {_source(facts)})")]


def ignored_folder(facts: Facts) -> Finding | None:
    """Return the error if the running containerd says that it does not search the folder.

    A list of folders that contains the folder passes, because containerd does not say whether it
    supports lists (see below).
    """
    if not isinstance(facts.cri, CriStatus) or facts.cri.images is None:
        return None
    return _ignored(facts, facts.cri.images, "")


def check_discard(facts: Facts) -> list[Finding]:
    """Check that containerd keeps the layers that it unpacked."""
    check = "discard_unpacked_layers"
    settings = image_settings(facts)
    if isinstance(settings, Unknown):
        return []  # reported for config_path already, with the same reason
    if not settings.discards_layers:
        return [ok(check, f"off (by {_source(facts)})")]
    text = (
        f"on (by {_source(facts)}): containerd drops layers once they are unpacked, so there are "
        "none to share"
    )
    put = _put(facts, "" if _form(facts) >= 3 else ".containerd", f"{check} = false")
    return [
        error(
            check,
            text,
            f"{put}; images that are here get layers back when they are removed and pulled again",
        )
    ]


def image_settings(facts: Facts) -> ImageSettings | Unknown:
    """Return the image settings that containerd reports, else those in its file.

    Unknown if neither can be read.
    """
    if isinstance(facts.cri, CriStatus) and facts.cri.images is not None:
        is_local = (
            isinstance(facts.file, FileSettings) and facts.file.images.pulls_locally
        )  # the daemon does not report this one
        return replace(facts.cri.images, pulls_locally=is_local)
    if isinstance(facts.cri, CriStatus) and not facts.cri.is_served:
        return Unknown("containerd serves no CRI")
    if isinstance(facts.file, FileSettings):
        found = facts.file.images
        has_default = (_number(facts.version) or (0, 0)) >= HAS_DEFAULT and not found.has_mirrors
        return (
            replace(found, config_path=DEFAULT_CONFIG_PATH)
            if has_default and not found.config_path
            else found
        )
    why = facts.file.reason if isinstance(facts.file, Unknown) else "its file was not looked at"
    away = (
        facts.cri.reason
        if isinstance(facts.cri, Unknown)
        else f"containerd {_shown(facts.version)} does not tell"
    )
    return Unknown(
        f"not known: {away}, and {why}",
        (facts.file.remedy if isinstance(facts.file, Unknown) else "")
        or "run this on the machine itself, or give --containerd-config its config.toml",
    )


def hosts_folder(facts: Facts) -> Path:
    """Return the folder of the hosts.toml files: the given one, else the first one searched."""
    settings = image_settings(facts)
    searched = roots(settings) if isinstance(settings, ImageSettings) else ()
    return facts.subject.certs or next(iter(searched), STANDARD_FOLDER)


def roots(settings: ImageSettings) -> tuple[Path, ...]:
    """Return the folders in which containerd searches hosts.toml files."""
    return tuple(Path(part) for part in settings.config_path.split(":") if part)


def _version_finding(text: str, socket: Path) -> Finding:
    number = _number(text)
    if number is None:
        return warning(
            "containerd",
            f"{socket} is of version {text!r}, not one of containerd's",
            "use containerd 1.6+",
        )
    if number < OLDEST:
        return warning(
            "containerd",
            f"{text} at {socket}: older than any that was tried",
            "use containerd 1.6+",
        )
    late = (
        ""
        if number >= TELLS_LAYERS
        else "; layers are shared once their image is complete (2.1+: one by one)"
    )
    return ok("containerd", f"{text} at {socket}{late}")


def _config_path_finding(facts: Facts, settings: ImageSettings, by: str) -> Finding:
    check, wanted, searched = "config_path", facts.subject.certs, roots(settings)
    if ignored := _ignored(facts, settings, by):
        return ignored
    put = _put_config_path(facts, wanted or searched[0])
    if (
        len(searched) > 1
        and not settings.pulls_locally
        and (_number(facts.version) or (0, 0)) >= TELLS_LAYERS
    ):
        text = (
            f"{settings.config_path}{by}: containerd {_shown(facts.version)} takes this list for "
            "one folder and asks "
            "no mirror (its issue 12808)"
        )
        return error(check, text, put)
    if wanted is not None and searched[0] != wanted:
        text = f"{settings.config_path}{by}: what lies in {searched[0]} goes before {wanted}"
        return warning(check, text, _give_folder(searched[0]))
    return ok(check, f"{settings.config_path}{by}")


def _ignored(facts: Facts, settings: ImageSettings, by: str) -> Finding | None:
    """Return an error if containerd searches no folder, or does not search the wanted one."""
    check, wanted, searched = "config_path", facts.subject.certs, roots(settings)
    if not searched:
        older = (
            "; take registry.mirrors out, it excludes config_path" if settings.has_mirrors else ""
        )
        put = _put_config_path(facts, wanted or Path("/etc/containerd/certs.d"))
        return error(check, f"not set{by}: containerd asks no mirror", put + older)
    if wanted is not None and wanted not in searched:
        text = f"{settings.config_path}{by}, but hosts.toml files are written to {wanted}"
        put = f"or, if nothing in {searched[0]} is used, {_put_config_path(facts, wanted)}"
        return error(check, text, f"{_give_folder(searched[0])}; {put}")
    return None


def _give_folder(folder: Path) -> str:
    """Return the advice to use the folder that containerd searches: nothing in it is lost."""
    return (
        f"give --containerd-registry-config-path {folder} to configuration, cleanup and doctor "
        "(in the chart spegel.containerdRegistryConfigPath)"
    )


def _put_config_path(facts: Facts, folder: Path) -> str:
    return _put(facts, ".registry", f'config_path = "{folder}"')


def _source(facts: Facts) -> str:
    told = isinstance(facts.cri, CriStatus) and facts.cri.images is not None
    return "the running daemon" if told else f"{facts.subject.config_file}"


def _put(facts: Facts, table: str, line: str) -> str:
    """Return the advice how to set a key in a table below the plugin with the image settings."""
    form = _form(facts)
    plugin = f'"{IMAGES}"' if form >= 3 else f'"{CRI}"' if form == 2 else "cri"
    return (
        f"in {facts.subject.config_file}: [plugins.{plugin}{table}] {line}; then systemctl "
        "restart containerd"
    )


def _form(facts: Facts) -> int:
    """Return the version of the configuration file for which a remedy is written."""
    if isinstance(facts.file, FileSettings):
        return facts.file.version
    return 3 if (_number(facts.version) or (0, 0)) >= (2, 0) else 2


def _number(version: str | Unknown | None) -> tuple[int, int] | None:
    found = re.match(r"v?(\d+)\.(\d+)", version) if isinstance(version, str) else None
    return (int(found[1]), int(found[2])) if found else None


def _shown(version: str | Unknown | None) -> str:
    return version if isinstance(version, str) else "of unknown version"
