"""The planned `config_path`: Spegel's folders, and the files that an operator's settings need."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from spegel_py.errors import ConfigError
from spegel_py.host.changes import ChangeKind
from spegel_py.host.configuration import configure
from spegel_py.host.file_tree import Entry, File, Folder, Link, at
from spegel_py.host.host_files import read
from spegel_py.host.mirroring import KeptHosts
from spegel_py.host.registries import parse_registries
from spegel_py.tools.basic_auth import Credentials
from tests.support.host_trees import EXISTING, MIRROR, mirroring, quick


def planned(
    root: Path, *registries: str, keeps_existing: bool | KeptHosts = True, **others: Any
) -> Mapping[str, Entry]:
    original = read(root)
    assert isinstance(original, Folder)
    which = mirroring(*registries, keeps_existing=keeps_existing, **others)
    return which.plan(original, root=root, outside=read)


def file(wanted: Mapping[str, Entry], path: str) -> str:
    [first, *rest] = path.split("/")
    entry = at(wanted[first], tuple(rest)) if isinstance(wanted[first], Folder) else wanted[first]  # type: ignore[arg-type]
    assert isinstance(entry, File), entry
    return entry.data.decode()


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_each_registry_has_a_folder(tmp_path: Path) -> None:
    """Folders are named as images name the registries, with the server behind; nothing else is
    there.
    """
    wanted = planned(tmp_path, "https://docker.io", "http://foo.bar:5000", "*")
    assert sorted(wanted) == ["_default", "docker.io", "foo.bar:5000"]
    assert (
        tomllib.loads(file(wanted, "docker.io/hosts.toml"))["server"]
        == "https://registry-1.docker.io"
    )
    assert tomllib.loads(file(wanted, "foo.bar:5000/hosts.toml"))["server"] == "http://foo.bar:5000"
    assert "server" not in tomllib.loads(file(wanted, "_default/hosts.toml"))


def test_without_prepend_existing_nothing_is_kept(tmp_path: Path) -> None:
    """Previous folders are in the backup, and their names are logged."""
    write(
        tmp_path,
        **{
            "docker.io/hosts.toml": EXISTING,
            "docker.io/ca.crt": "",
            "ghcr.io/hosts.toml": "",
            "file": "",
        },
    )
    wanted = planned(tmp_path, "https://docker.io", keeps_existing=False)
    assert {
        name: list(entry.entries) for name, entry in wanted.items() if isinstance(entry, Folder)
    } == {"docker.io": ["hosts.toml"]}
    original = read(tmp_path)
    assert isinstance(original, Folder)
    assert mirroring(keeps_existing=False).set_aside(original, wanted) == ["docker.io", "ghcr.io"]
    assert mirroring(keeps_existing=True).set_aside(original, wanted) == ["ghcr.io"]


@pytest.mark.parametrize(
    ("registries", "name", "flags"),
    [
        pytest.param((), "ghcr.io", "_default https://ghcr.io", id="all"),
        pytest.param(
            ("http://a:5000",), "b_443_", "http://a:5000 https://b:443", id="one, and a port"
        ),
        pytest.param(("https://docker.io",), "docker.io", "https://docker.io", id="named already"),
        pytest.param(
            ("https://docker.io",), "_default", "https://docker.io _default", id="the default"
        ),
    ],
)
def test_what_is_set_aside_can_be_kept(registries: tuple[str, ...], name: str, flags: str) -> None:
    """The flags that keep it are given whole, and leave what is mirrored as it is."""
    expected = f"--prepend-existing and name it: --mirrored-registries {flags}"
    assert mirroring(*registries).keeping(name).endswith(expected)
    parse_registries(flags.split())


def test_prepend_existing_alone_keeps_nothing(tmp_path: Path) -> None:
    """Without names, as with Spegel, all folders are set aside; the warning says that names are
    what is missing.
    """
    write(tmp_path, **{"docker.io/hosts.toml": EXISTING, "ghcr.io/ca.crt": "a"})
    found = configure(tmp_path, mirroring(keeps_existing=True), quick())
    aside = [one for one in found if one.kind is ChangeKind.SET_ASIDE]
    assert [one.name for one in aside] == ["docker.io", "ghcr.io"]
    assert aside[1].remedy == (
        "--prepend-existing keeps the registries that are named, and no other: to keep it, give "
        "--mirrored-registries _default https://ghcr.io, or --prepend-existing=all"
    )


def test_the_hosts_of_every_registry_are_kept_without_their_names(tmp_path: Path) -> None:
    """Behind the mirror, since all registries are mirrored; certificates and paths stay too."""
    write(
        tmp_path,
        **{
            "docker.io/hosts.toml": EXISTING,
            "docker.io/ca.crt": "a",
            "ghcr.io/hosts.toml": '[host."https://cache.example/v2/ghcr"]\noverride_path = true\n',
            "old.example_5000_/ca.crt": "b",
            "notes.txt": "",
        },
    )
    wanted = planned(tmp_path, keeps_existing=KeptHosts.ALL)
    assert sorted(wanted) == ["_default", "docker.io", "ghcr.io", "old.example_5000_"]
    for name in wanted:
        text = file(wanted, f"{name}/hosts.toml")
        assert next(iter(tomllib.loads(text)["host"])) == MIRROR
    hosts = tomllib.loads(file(wanted, "ghcr.io/hosts.toml"))["host"]
    assert hosts["https://cache.example/v2/ghcr"] == {"override_path": True}
    assert tomllib.loads(file(wanted, "old.example_5000_/hosts.toml"))["ca"] == ["ca.crt"]
    original = read(tmp_path)
    assert isinstance(original, Folder)
    assert mirroring(keeps_existing=KeptHosts.ALL).set_aside(original, wanted) == []


def test_the_hosts_of_registries_that_are_not_mirrored_stay_as_they_are(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "docker.io/hosts.toml": EXISTING,
            "ghcr.io/hosts.toml": EXISTING,
            "ghcr.io/ca.crt": "a",
            "_default/hosts.toml": EXISTING,
        },
    )
    (tmp_path / "quay.io").symlink_to("ghcr.io")
    wanted = planned(tmp_path, "https://docker.io", keeps_existing=KeptHosts.ALL)
    assert MIRROR in file(wanted, "docker.io/hosts.toml")
    for name in ("ghcr.io", "quay.io", "_default"):
        assert file(wanted, f"{name}/hosts.toml") == EXISTING
    assert file(wanted, "quay.io/ca.crt") == "a"


@pytest.mark.parametrize("given", ["ALL", "all", True, "yes", "0", False])
def test_what_prepend_existing_takes(given: object) -> None:
    expected = KeptHosts.ALL if str(given).lower() == "all" else None
    expected = expected or (KeptHosts.NAMED if given in (True, "yes") else KeptHosts.NONE)
    assert KeptHosts.parse(given) is expected


def test_what_prepend_existing_does_not_take() -> None:
    with pytest.raises(ValueError, match="'some' should be true, false or all"):
        KeptHosts.parse("some")


def test_a_secret_is_readable_by_the_owner_only(tmp_path: Path) -> None:
    """A file with the mirror's password or token has mode 0600, any other 0644."""
    for options, mode in (
        ({"credentials": Credentials(username="user", password="secret")}, 0o600),
        ({"token": "a" * 64}, 0o600),
        ({}, 0o644),
    ):
        entry = at(planned(tmp_path, **options)["_default"], ("hosts.toml",))  # type: ignore[arg-type]
        assert isinstance(entry, File)
        assert entry.meta.mode == mode


def test_certificates_come_with_the_file_that_names_them(tmp_path: Path) -> None:
    """All files of the registry's folder are kept, nested ones too."""
    write(
        tmp_path,
        **{
            "docker.io/hosts.toml": EXISTING,
            "docker.io/ca.crt": "a",
            "docker.io/certs/second.crt": "b",
        },
    )
    wanted = planned(tmp_path, "https://docker.io")
    assert file(wanted, "docker.io/ca.crt") == "a"
    assert file(wanted, "docker.io/certs/second.crt") == "b"
    assert next(iter(tomllib.loads(file(wanted, "docker.io/hosts.toml"))["host"])) == MIRROR


@pytest.mark.parametrize(
    "form", ["../certs/ca.pem", "{root}/certs/ca.pem"], ids=["relative", "absolute"]
)
def test_certificates_beside_the_folder_stay_where_they_are(tmp_path: Path, form: str) -> None:
    """A path that leads out of the registry's folder, but not out of config_path, leads to the same
    file afterwards.
    """
    text = (
        f'[host."https://m"]\nca = ["{form.format(root=tmp_path)}", "/etc/ssl/ca.pem"]\n'
        'client = ["../certs/gone"]\n'
    )
    write(tmp_path, **{"docker.io/hosts.toml": text, "certs/ca.pem": "a", "certs/unused.pem": ""})
    wanted = planned(tmp_path, "https://docker.io")
    assert file(wanted, "certs/ca.pem") == "a"
    assert sorted(wanted) == ["certs", "docker.io"]
    assert at(wanted["certs"], ("unused.pem",)) is None  # type: ignore[arg-type]


def test_the_folder_containerd_prefers_is_the_one_that_is_written(tmp_path: Path) -> None:
    """Where an operator's folder is named host_port_ ours is too: containerd would not look at
    host:port beside it.
    """
    write(
        tmp_path,
        **{
            "foo.bar_5000_/hosts.toml": 'server = "http://foo.bar:5000"\n[host]\n',
            "foo.bar:5000/a": "",
        },
    )
    wanted = planned(tmp_path, "http://foo.bar:5000")
    assert list(wanted) == ["foo.bar_5000_"]
    assert list(tomllib.loads(file(wanted, "foo.bar_5000_/hosts.toml"))["host"]) == [MIRROR]


def test_links_are_followed_as_containerd_follows_them(tmp_path: Path) -> None:
    """A registry that is a link to another's folder, or whose files are links, gets the files
    themselves.
    """
    root, elsewhere = tmp_path / "certs.d", tmp_path / "shared"
    write(elsewhere, **{"hosts.toml": EXISTING, "ca.crt": "outside"})
    write(root, **{"ghcr.io/hosts.toml": EXISTING, "ghcr.io/ca.crt": "inside"})
    (root / "quay.io").symlink_to("ghcr.io")
    (root / "docker.io").symlink_to("../shared")
    (root / "k8s.io").mkdir()
    (root / "k8s.io" / "hosts.toml").symlink_to("../quay.io/hosts.toml")
    (root / "k8s.io" / "nowhere").symlink_to("gone")
    (root / "k8s.io" / "circle").symlink_to("circle")
    wanted = planned(root, "https://quay.io", "https://docker.io", "https://k8s.io")
    assert file(wanted, "quay.io/ca.crt") == "inside"
    assert file(wanted, "docker.io/ca.crt") == "outside"
    assert "mirror.example" in file(wanted, "k8s.io/hosts.toml")
    for name in ("nowhere", "circle"):
        assert isinstance(at(wanted["k8s.io"], (name,)), Link)  # type: ignore[arg-type]


def test_dockers_certificates_count_without_a_file(tmp_path: Path) -> None:
    """A folder of certificates alone means something to containerd until there is a hosts.toml:
    then that says it.
    """
    write(tmp_path, **{"foo.bar/ca.crt": "a"})
    wanted = planned(tmp_path, "https://foo.bar")
    document = tomllib.loads(file(wanted, "foo.bar/hosts.toml"))
    assert (document["server"], document["ca"]) == ("https://foo.bar", ["ca.crt"])
    assert file(wanted, "foo.bar/ca.crt") == "a"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"a = 1\nb = = 2\n", "line 2: it is not TOML"),
        (b"a = 1\n\n# \xff\n", "line 3: it is not UTF-8"),
        (b"#" * 65537, "it has 65537 bytes and is not read: a hosts.toml may have 65536"),
    ],
    ids=["TOML", "UTF-8", "large"],
)
def test_a_file_that_cannot_be_kept_is_named(tmp_path: Path, text: bytes, named: str) -> None:
    """The error says which file, which line and what to do; of registries that are not asked for
    nothing is read.
    """
    write(tmp_path, **{"docker.io/hosts.toml": ""})
    (tmp_path / "docker.io" / "hosts.toml").write_bytes(text)
    with pytest.raises(ConfigError, match=named) as caught:
        planned(tmp_path, "https://docker.io")
    assert f"{tmp_path}/docker.io/hosts.toml: " in str(caught.value)
    assert "--prepend-existing" in str(caught.value)
    assert list(planned(tmp_path, "https://ghcr.io")) == ["ghcr.io"]
