"""Whether containerd reads the folder that `configuration` writes to, as containerd itself tells
it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from spegel_py.cli import main
from spegel_py.errors import ConfigError
from spegel_py.host.config_path_check import check
from spegel_py.host.doctor.facts import Facts, Subject, Unknown
from spegel_py.store.containerd import CriStatus, ImageSettings

CERTS = Path("/etc/containerd/certs.d")
SUBJECT = Subject(
    socket=Path("/run/c.sock"),
    namespace="k8s.io",
    content_path=None,
    registry="",
    metrics="",
    certs=CERTS,
)
IMAGES = ImageSettings(config_path=str(CERTS), discards_layers=False)
AWAY = Unknown("no answer within 3 s")


def facts(config_path: str, version: str = "v2.4.2", *, has_mirrors: bool = False) -> Facts:
    images = replace(IMAGES, config_path=config_path, has_mirrors=has_mirrors)
    return Facts(subject=SUBJECT, version=version, cri=CriStatus(is_served=True, images=images))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        pytest.param(
            facts("", "1.6.20"),
            "containerd's config_path is not set: containerd asks no mirror; in "
            "/etc/containerd/config.toml: "
            '[plugins."io.containerd.grpc.v1.cri".registry] config_path = '
            '"/etc/containerd/certs.d"; then systemctl '
            "restart containerd",
            id="not set",
        ),
        pytest.param(
            facts("", "1.7.35", has_mirrors=True),
            "; take registry.mirrors out",
            id="mirrors instead",
        ),
        pytest.param(
            facts("/other"),
            "containerd's config_path is /other, but hosts.toml files are written to "
            "/etc/containerd/certs.d; give --containerd-registry-config-path /other to "
            "configuration, cleanup and doctor (in the chart spegel.containerdRegistryConfigPath); "
            "or, if nothing in /other is used, in /etc/containerd/config.toml: "
            '[plugins."io.containerd.cri.v1.images".registry] config_path = '
            '"/etc/containerd/certs.d"; then systemctl restart containerd',
            id="another folder",
        ),
        pytest.param(
            facts("/a:/b", "1.7.35"), "config_path is /a:/b, but", id="a list without the folder"
        ),
    ],
)
def test_a_folder_that_containerd_does_not_search_is_an_error(found: Facts, said: str) -> None:
    """One line has the setting, its place and the remedy."""
    with pytest.raises(ConfigError, match=re.escape(said)):
        check(found, CERTS)


@pytest.mark.parametrize(
    ("found", "level"),
    [
        pytest.param(facts(f"{CERTS}"), None, id="the folder"),
        pytest.param(facts(f"{CERTS}/"), None, id="the folder with a slash"),
        pytest.param(facts(f"{CERTS}:/other", "1.7.35"), None, id="a list, before 2.1"),
        pytest.param(facts(f"/other:{CERTS}", "1.7.35"), "info", id="the second of a list"),
        pytest.param(facts(f"{CERTS}:/other"), "warning", id="a list, since 2.1"),
        pytest.param(
            Facts(subject=SUBJECT, version="v2.1.0", cri=CriStatus(is_served=True)),
            "info",
            id="does not tell",
        ),
        pytest.param(Facts(subject=SUBJECT, version=AWAY, cri=AWAY), "info", id="away"),
        pytest.param(
            Facts(subject=SUBJECT, version="1.7.35", cri=CriStatus(is_served=False)),
            "info",
            id="no CRI",
        ),
    ],
)
def test_a_folder_that_containerd_may_search_is_none(found: Facts, level: str | None) -> None:
    """A node starts unless containerd reports a certain error; the log names possible problems."""
    with capture_logs() as logs:
        check(found, CERTS)
    assert [each["log_level"] for each in logs] == ([level] if level else [])


def test_a_folder_that_containerd_searches_by_a_link_is_right(tmp_path: Path) -> None:
    """On a plain host the links are seen."""
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    check(facts(str(link)), folder)
    with pytest.raises(ConfigError, match=f"is {tmp_path}, but"):
        check(replace(facts(str(tmp_path)), subject=replace(SUBJECT, certs=folder)), folder)


def test_a_containerd_that_is_away_keeps_nothing_from_being_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command goes on where there is no socket; without the flag nothing is asked."""
    monkeypatch.setattr("spegel_py.telemetry.logging.configure", lambda **_: None)
    monkeypatch.setenv("LOG_FORMAT", "json")
    folder = tmp_path / "certs.d"
    flags = [f"--containerd-registry-config-path={folder}", "--mirror-targets=http://127.0.0.1:9"]
    with capture_logs() as logs:
        assert main(["configuration", *flags, f"--containerd-sock={tmp_path}/none.sock"]) == 0
    assert any(
        "not known: containerd does not answer at" in str(each.get("finding")) for each in logs
    ), logs
    with capture_logs() as logs:
        assert main(["configuration", *flags]) == 0
    assert [each["event"] for each in logs] == [
        "mirror kept",
        "containerd is configured",
        "no mirror listens there yet",
    ]
