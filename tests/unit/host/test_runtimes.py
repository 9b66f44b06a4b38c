"""The files of other runtimes: their text, and the settings that they cannot express."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from spegel_py.errors import ConfigError
from spegel_py.host import buildkitd_toml, registries_conf
from spegel_py.host.registries import parse_registries, parse_targets
from spegel_py.host.runtimes import Runtime, RuntimeMirrors

REGISTRIES = parse_registries(["registry.example", "http://10.0.0.9:5000"])
TARGETS = parse_targets(["http://127.0.0.1:5000", "https://mirror.example"])
USERS = """\
# the user's
debug = true

[registry."registry.example"]
  mirrors = ["first.example"] # theirs
  ca = ["/etc/ca.pem"]

[worker.oci]
  enabled = false
"""


def test_registries_conf_has_a_path_for_each_registry() -> None:
    text = registries_conf.render(REGISTRIES, TARGETS, can_resolve=False)
    assert text.startswith(registries_conf.HEAD)
    mirrors = [
        {
            "location": "127.0.0.1:5000/registry.example",
            "insecure": True,
            "pull-from-mirror": "digest-only",
        },
        {"location": "mirror.example/registry.example", "pull-from-mirror": "digest-only"},
    ]
    first, second = tomllib.loads(text)["registry"]
    assert first == {"location": "registry.example", "mirror": mirrors}
    assert (second["location"], second["insecure"]) == ("10.0.0.9:5000", True)
    assert second["mirror"][0]["location"] == "127.0.0.1:5000/10.0.0.9:5000"


def test_other_tables_of_a_registry_are_found() -> None:
    files = {
        "a.conf": 'unqualified-search-registries = ["docker.io"]',
        "b.conf": '[[registry]]\nprefix = "registry.example/team"\nlocation = "other"',
        "c.conf": '[[registry]]\nlocation = "registry.example"',
    }
    assert list(registries_conf.claimed(files, REGISTRIES)) == [("registry.example", "c.conf")]
    with pytest.raises(ValueError, match=r"d\.conf is not TOML"):
        list(registries_conf.claimed({"d.conf": "[["}, REGISTRIES))


def test_buildkit_s_mirrors_come_before_the_user_s() -> None:
    """All other lines stay, and taking the mirrors out gives the file back."""
    found = buildkitd_toml.add(USERS, REGISTRIES, TARGETS)
    document = tomllib.loads(found)["registry"]
    assert document["registry.example"]["mirrors"] == [
        "127.0.0.1:5000",
        "mirror.example",
        "first.example",
    ]
    assert document["10.0.0.9:5000"]["mirrors"][0] == "127.0.0.1:5000"
    assert document["127.0.0.1:5000"] == {"http": True}
    assert "mirror.example" not in document
    for line in USERS.splitlines():
        assert line in found or "mirrors" in line
    assert buildkitd_toml.add(found, REGISTRIES, TARGETS) == found
    names = [buildkitd_toml.mirror(target) for target in TARGETS]
    assert tomllib.loads(buildkitd_toml.remove(found, names)) == tomllib.loads(USERS)


def test_buildkit_s_file_may_be_missing() -> None:
    found = buildkitd_toml.add("", REGISTRIES[:1], TARGETS[:1])
    assert tomllib.loads(found) == {
        "registry": {
            "registry.example": {"mirrors": ["127.0.0.1:5000"]},
            "127.0.0.1:5000": {"http": True},
        }
    }
    assert buildkitd_toml.remove(found, ["127.0.0.1:5000"]).strip() == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("registry = 1", "registry is no table"),
        ('[registry]\n"registry.example" = 1', "is no table"),
        ('[registry."registry.example"]\nmirrors = "one"', "no list of hosts"),
        ("[[", "not TOML"),
    ],
)
def test_what_buildkit_s_file_has_instead_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        buildkitd_toml.add(text, REGISTRIES, TARGETS)


def mirrors(runtime: Runtime, *registries: str, path: Path, **others: bool) -> RuntimeMirrors:
    return RuntimeMirrors(
        runtime=runtime,
        registries=parse_registries(registries),
        targets=TARGETS,
        path=path,
        **others,
    )


@pytest.mark.parametrize(
    ("runtime", "registries", "others", "reason"),
    [
        (Runtime.DOCKER, ["quay.io"], {}, "docker.io only, not for quay.io"),
        (Runtime.DOCKER, [], {"resolves_tags": False}, "--tag-ttl 0"),
        (Runtime.BUILDKIT, ["quay.io"], {"resolves_tags": False}, "--tag-ttl 0"),
        (Runtime.BUILDKIT, [], {}, "name each registry"),
        (Runtime.PODMAN, [], {}, "name each registry"),
        (Runtime.CRIO, ["quay.io"], {"has_password": True}, "no place for the mirror's password"),
    ],
)
def test_what_a_runtime_s_file_cannot_express_is_refused(
    runtime: Runtime, registries: list[str], others: dict[str, bool], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=reason):
        mirrors(runtime, *registries, path=tmp_path / "file", **others).check()


def test_a_table_of_the_user_is_not_replaced(tmp_path: Path) -> None:
    """A later file of registries.conf.d wins over an earlier one, with all of its settings."""
    folder = tmp_path / "registries.conf.d"
    folder.mkdir()
    wanted = mirrors(Runtime.PODMAN, "quay.io", path=folder / "spegel-py.conf")
    wanted.check()
    (tmp_path / "registries.conf").write_text('[[registry]]\nlocation = "quay.io"\n')
    with pytest.raises(ConfigError, match=r"registries\.conf has a table of quay\.io"):
        wanted.check()
