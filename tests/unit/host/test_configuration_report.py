"""`configuration` and `cleanup` say what they do to each registry, and touch no other folder."""

from __future__ import annotations

import json
import os
import re
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from spegel_py.cli import main
from spegel_py.config import Config
from spegel_py.host.folder_check import why_foreign
from spegel_py.host.registries import parse_registries

Lines = list[MutableMapping[str, Any]]

PATH = "--containerd-registry-config-path"
MIRROR = "http://127.0.0.1:9"
PLAIN = "http://registry.example:5000"


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave this process's logging and its settings alone; log lines are asked for."""
    monkeypatch.setattr("spegel_py.telemetry.logging.configure", lambda **_: None)
    monkeypatch.setenv("LOG_FORMAT", "json")
    for name in ("ADDR", "MIRROR_TARGETS", "MIRRORED_REGISTRIES", "CONTAINERD_SOCK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """containerd's folder, which is not there yet."""
    return tmp_path / "certs.d"


def configure(root: Path, *registries: str, more: Sequence[str] = ()) -> Lines:
    """Run `configuration`, and return what it logged about registries."""
    named = ["--mirrored-registries", *registries] if registries else []
    with capture_logs() as logs:
        assert (
            main(["configuration", PATH, str(root), "--mirror-targets", MIRROR, *named, *more]) == 0
        )
    return [one for one in logs if "registry" in one or one["log_level"] == "warning"]


def said(logs: Lines) -> list[tuple[str, str, str]]:
    """Return level, event and registry of each line."""
    return [(one["log_level"], one["event"], one["registry"]) for one in logs]


def test_each_registry_has_a_line(root: Path) -> None:
    """It is added, then kept; other mirrors or options change it."""
    assert said(configure(root, "_default", PLAIN)) == [
        ("info", "mirror added", "all registries"),
        ("info", "mirror added", "registry.example:5000"),
    ]
    assert said(configure(root, "_default", PLAIN)) == [
        ("info", "mirror kept", "all registries"),
        ("info", "mirror kept", "registry.example:5000"),
    ]
    changed = configure(root, "_default", PLAIN, more=["--resolve-tags=false"])
    assert {event for _, event, _ in said(changed)} == {"mirror changed"}


def test_all_registries_and_one_without_tls_stand_beside_each_other(root: Path) -> None:
    """The one has its own server; all others go on at the registry that they are asked for."""
    configure(root, "_default", PLAIN)
    named = (root / "registry.example:5000" / "hosts.toml").read_text()
    assert named.startswith(f"server = '{PLAIN}'\n")
    assert "server" not in (root / "_default" / "hosts.toml").read_text()
    assert named.endswith("\n")


def test_a_narrower_run_warns_about_the_registries_that_lose_the_mirror(root: Path) -> None:
    """The line has the flags that keep them; with these, nothing is lost."""
    configure(root)
    added, removed = sorted(configure(root, PLAIN), key=lambda one: str(one["event"]))
    assert said([added, removed]) == [
        ("info", "mirror added", "registry.example:5000"),
        ("warning", "mirror removed", "all registries"),
    ]
    assert removed["remedy"] == f"--mirrored-registries {PLAIN} _default"
    configure(root, *removed["remedy"].split()[1:])
    assert sorted(path.name for path in root.glob("*/hosts.toml").__iter__()) == ["hosts.toml"] * 2


def test_cleanup_says_what_it_restores_and_removes(root: Path) -> None:
    """Each registry has a line, with or without a previous file."""
    (root / "quay.io").mkdir(parents=True)
    (root / "quay.io" / "hosts.toml").write_text("server = 'https://quay.io'")
    configure(root)
    with capture_logs() as logs:
        assert main(["cleanup", PATH, str(root)]) == 0
    assert said([one for one in logs if "registry" in one]) == [
        ("info", "mirror removed", "all registries"),
        ("info", "settings restored", "quay.io"),
    ]


@pytest.mark.parametrize("ending", ["", "\n", "\n\n", "\r\n"])
@pytest.mark.parametrize("keep", [[], ["--prepend-existing"]], ids=["aside", "kept"])
def test_a_file_comes_back_byte_for_byte(root: Path, ending: str, keep: list[str]) -> None:
    """With or without a newline at its end."""
    file = root / "quay.io" / "hosts.toml"
    file.parent.mkdir(parents=True)
    text = f"# ours\nserver = 'https://quay.io'\n[host.'https://cache']{ending}".encode()
    file.write_bytes(text)
    configure(root, "_default", "quay.io", more=keep)
    configure(root, "_default", more=keep)
    assert main(["cleanup", PATH, str(root)]) == 0
    assert file.read_bytes() == text


def test_a_file_that_somebody_adds_between_two_runs_is_not_lost(root: Path) -> None:
    """It is set aside with a warning, or kept after the mirror, and cleanup restores it."""
    configure(root)
    file = root / "private.example" / "hosts.toml"
    file.parent.mkdir()
    text = "server = 'https://private.example'\n[host.'https://cache.example']\n"
    file.write_text(text)
    [aside] = [one for one in configure(root) if one["event"] == "set aside until cleanup"]
    assert "--prepend-existing" in aside["remedy"]
    assert not file.exists()
    configure(root, "_default", "https://private.example", more=["--prepend-existing"])
    assert "https://cache.example" in file.read_text()
    assert main(["cleanup", PATH, str(root)]) == 0
    assert file.read_text() == text


def test_a_dry_run_shows_registries_and_lines_and_changes_nothing(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The diff has the new file's lines; the registry that would lose the mirror is named."""
    configure(root)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    configure(root, PLAIN, more=["--dry-run"])
    out = capsys.readouterr().out
    assert "added      registry.example:5000\n" in out
    assert "removed    all registries: containerd asks the mirror for it no longer; to keep " in out
    assert f"+++ {root}/registry.example:5000/hosts.toml\n" in out
    assert f"+server = '{PLAIN}'\n" in out
    assert f"--- {root}/_default/hosts.toml\n+++ /dev/null\n" in out
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_a_dry_run_on_a_new_machine_makes_no_folder(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even the folder itself."""
    configure(root, more=["--dry-run"])
    assert "added      all registries\n" in capsys.readouterr().out
    assert not root.exists()


def test_a_dry_run_shows_no_password(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The header of the basic-auth secret is left out."""
    for name in ("username", "password"):
        (tmp_path / name).write_text("secret")
    monkeypatch.setattr(
        "spegel_py.tools.basic_auth.Credentials.read.__func__.__defaults__", (tmp_path,)
    )
    configure(root, more=["--dry-run"])
    out = capsys.readouterr().out
    assert "+Authorization = '…'" in out
    assert "Basic" not in out


def printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str
) -> str:
    """Run a command as a person does, without a log format; returns its standard output."""
    with monkeypatch.context() as patched:
        patched.delenv("LOG_FORMAT")
        capsys.readouterr()
        assert main(words) == 0
    output = capsys.readouterr()
    assert output.err == ""
    return output.out


def test_a_person_gets_sentences(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done to each registry, whether the mirror answers, and what cleanup restores."""
    (root / "quay.io").mkdir(parents=True)
    (root / "quay.io" / "hosts.toml").write_text("server = 'https://quay.io'")
    run = ["configuration", PATH, str(root), "--mirror-targets", MIRROR]
    lines = printed(capsys, monkeypatch, *run).splitlines()
    assert lines[:2] == [f"{root}:", "  added      all registries"]
    assert lines[2].startswith("  set aside  quay.io until cleanup; to keep it, after the mirror, ")
    assert lines[3].startswith(f"no mirror listens at {MIRROR} yet: start spegel-py registry")
    assert len(lines) == 4
    assert "  kept       all registries\n" in printed(capsys, monkeypatch, *run)
    narrow = printed(capsys, monkeypatch, *run, "--mirrored-registries", PLAIN)
    assert "  removed    all registries: containerd asks the mirror for it no longer; " in narrow
    assert f"to keep it: --mirrored-registries {PLAIN} _default\n" in narrow
    assert printed(capsys, monkeypatch, "cleanup", PATH, str(root)).splitlines() == [
        f"{root} is as it was before the first configuration:",
        "  restored   quay.io",
        "  removed    registry.example:5000",
    ]
    again = printed(capsys, monkeypatch, "cleanup", PATH, str(root))
    assert again == f"nothing to put back: there is no {root}/_backup\n"
    monkeypatch.delenv("LOG_FORMAT")
    assert main(["cleanup", PATH, str(root.parent / "containred")]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"spegel-py: there is no folder {root.parent}/containred, so ")
    assert line.endswith("; nothing was changed")


def test_a_program_gets_one_object(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--json`, of a dry run too."""
    run = ["configuration", PATH, str(root), "--mirror-targets", MIRROR, "--json"]
    dry = json.loads(printed(capsys, monkeypatch, *run, "--dry-run"))
    done = json.loads(printed(capsys, monkeypatch, *run))
    added = {"registry": "_default", "change": "added", "remedy": None, "copy": None}
    assert dry["registries"] == done["registries"] == [added]
    assert (dry["dry_run"], done["dry_run"]) == (True, False)
    assert f"+++ {root}/_default/hosts.toml" in dry["diff"]
    assert (dry["mirrors"], done["diff"], done["folder"]) == ([], [], str(root))
    [mirror] = done["mirrors"]
    assert mirror == {"mirror": MIRROR, "answers": False, "answer": "Connection refused"}
    cleaned = json.loads(printed(capsys, monkeypatch, "cleanup", PATH, str(root), "--json"))
    assert cleaned["registries"] == [added | {"change": "removed"}]
    assert (cleaned["has_backup"], cleaned["problem"]) == (True, None)
    with capture_logs():
        assert main(["cleanup", PATH, str(root / "elsewhere"), "--json"]) == 1
    assert "there is no folder" in json.loads(capsys.readouterr().out)["problem"]


def test_a_file_that_was_changed_by_hand_is_copied_and_named(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dry run says so before; the mirror is written again, and the advice keeps the change."""
    configure(root)
    file = root / "_default" / "hosts.toml"
    ours = file.read_text()
    file.write_text(f"# mine\n{ours}\n[host.'https://cache.example']\n")
    edited = file.read_bytes()
    run = ["configuration", PATH, str(root), "--mirror-targets", MIRROR]
    dry = printed(capsys, monkeypatch, *run, "--dry-run")
    text = printed(capsys, monkeypatch, *run)
    copy = next((root / "_spegel-py.edited").glob("_default.*"))
    rest = f"to {copy}; to keep a setting, put it into {root}/_backup/_default/hosts.toml, "
    assert f"changed by hand since the last run; it will be copied {rest}" in dry
    assert f"changed by hand since the last run; copied {rest}" in text
    assert (file.read_text(), (copy / "hosts.toml").read_bytes()) == (ours, edited)
    assert "changed by hand" not in printed(capsys, monkeypatch, *run)
    place = re.search(r"put it into (\S+), name the registry, and give --prepend-existing", text)
    assert place
    Path(place[1]).parent.mkdir()
    Path(place[1]).write_text("[host.'https://cache.example']\n")
    configure(root, more=["--prepend-existing"])
    assert "https://cache.example" in file.read_text()
    assert file.read_text().index(MIRROR) < file.read_text().index("https://cache.example")
    left = printed(capsys, monkeypatch, "cleanup", PATH, str(root))
    assert f"files that were changed by hand stay in {copy.parent}: " in left


def test_the_log_names_a_file_that_was_changed_by_hand(root: Path) -> None:
    """As a warning, by `configuration` and by `cleanup`."""
    configure(root)
    file = root / "_default" / "hosts.toml"
    file.write_text("[host.'https://cache.example']\n")
    [edited] = [one for one in configure(root) if one["log_level"] == "warning"]
    assert edited["event"] == "changed by hand since the last run"
    file.write_text("[host.'https://other.example']\n")
    with capture_logs() as logs:
        assert main(["cleanup", PATH, str(root)]) == 0
    [again] = [one for one in logs if one["log_level"] == "warning"]
    assert again["event"] == edited["event"]
    assert again["copy"] != edited["copy"]
    texts = {path.read_text() for path in root.glob("_spegel-py.edited/*/hosts.toml")}
    assert texts == {"[host.'https://cache.example']\n", "[host.'https://other.example']\n"}
    assert [path.name for path in root.iterdir()] == ["_spegel-py.edited"]
    assert configure(root) != []  # the folder is still one of containerd's


@pytest.mark.parametrize("command", ["configuration", "cleanup"])
@pytest.mark.parametrize("kind", ["missing", "other files", "one too deep"])
def test_a_mistyped_folder_is_named_and_not_touched(
    command: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is made, nothing is set aside, and the exit status is not 0."""
    root = {
        "missing": tmp_path / "containred" / "certs.d",
        "other files": tmp_path / "etc",
        "one too deep": tmp_path / "certs.d" / "docker.io",
    }[kind]
    (tmp_path / "etc" / "certs.d" / "docker.io").mkdir(parents=True)
    (tmp_path / "etc" / "config.toml").write_text("version = 2")
    (tmp_path / "certs.d" / "docker.io").mkdir(parents=True)
    (tmp_path / "certs.d" / "docker.io" / "hosts.toml").write_text("server = 'https://docker.io'")
    before = sorted(tmp_path.rglob("*"))
    flags = ["--mirror-targets", MIRROR] if command == "configuration" else []
    with capture_logs() as logs:
        assert main([command, PATH, str(root), *flags]) == (2 if flags else 1)
    text = capsys.readouterr().err + str(logs)
    assert str(root) in text
    assert "containerd does not read it: it reads " in text
    assert sorted(tmp_path.rglob("*")) == before


def test_the_folder_of_all_configurations_is_none_of_containerds() -> None:
    """Though certificates lie in a folder or two of it."""
    assert "holds other files than those of registries" in (why_foreign(Path("/etc"), []) or "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("command", ["configuration", "cleanup"])
def test_a_user_without_rights_is_told_who_may(
    command: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, without a raw PermissionError."""
    flags = ["--mirror-targets", MIRROR] if command == "configuration" else []
    assert main([command, PATH, str(root), *flags]) == 0  # all modules are loaded now
    root.parent.chmod(0o700)
    os.seteuid(65534)
    try:
        assert main([command, PATH, str(root), *flags]) == 1
    finally:
        os.seteuid(0)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "run this as root" in err


def test_a_file_beside_registries_is_no_mistake(root: Path) -> None:
    """People keep notes there, or links; so is a folder with certificates alone."""
    (root / "registry.example_5000_").mkdir(parents=True)
    (root / "registry.example_5000_" / "ca.crt").touch()
    (root / "README").touch()
    assert why_foreign(root, []) is None


def test_a_folder_that_containerd_names_is_no_mistake(tmp_path: Path) -> None:
    """Whatever it holds, and though it is not there yet."""
    config, root = tmp_path / "config.toml", tmp_path / "mirrors"
    assert "there is no folder" in (why_foreign(root, [config]) or "")
    table = 'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\n'
    config.write_text(f'{table}config_path = "{root}"\n')
    assert why_foreign(root, [config]) is None


@pytest.mark.parametrize(
    "given",
    [
        "docker.io",
        "https://docker.io",
        "registry.example:5000",
        PLAIN,
        "localhost:5000",
        "[::1]:80",
    ],
)
def test_a_registry_means_the_same_to_node_and_configuration(given: str) -> None:
    """With or without a scheme, by flag or by variable."""
    environment = {"MIRRORED_REGISTRIES": given}
    config = Config.load(flags={}, environment=environment, file=None)
    [registry] = parse_registries([given])
    assert registry.host == given.removeprefix("https://").removeprefix("http://")
    label = f"{registry.host}/app:1"
    assert not config.filters.exclude(label)
    assert config.filters.exclude("other.example/app:1")


@pytest.mark.parametrize("given", ["_default", "*", ""])
def test_all_registries_mean_the_same_to_node_and_configuration(given: str) -> None:
    """Also beside a registry that is named."""
    for more in ([], [PLAIN]):
        text = ",".join(filter(None, [given, *more]))
        if not text or (given == "" and more):
            continue
        config = Config.load(flags={}, environment={"MIRRORED_REGISTRIES": text}, file=None)
        assert not config.filters.exclude("any.example/app:1")
        assert "_default" in {one.host for one in parse_registries(text.split(","))}


def test_a_registry_without_a_scheme_goes_on_where_containerd_would(root: Path) -> None:
    """No server is written, so containerd asks the registry itself, docker.io at its own host."""
    configure(root, "docker.io")
    assert "server" not in (root / "docker.io" / "hosts.toml").read_text()


@pytest.mark.parametrize("command", ["configuration", "cleanup"])
def test_one_file_has_the_settings_of_all_commands(
    command: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--config` is the node's file; an unknown key is still named."""
    file = tmp_path / "node.yaml"
    file.write_text(
        f"registry_addr: :5000\nmirror_targets: {MIRROR}\ncontainerd_registry_config_path: {root}\n"
    )
    assert main(["configuration", "--config", str(file)]) == 0
    assert (root / "_default" / "hosts.toml").exists()
    assert main([command, "--config", str(file)]) == 0
    Config.load(flags={}, environment={}, file=file)
    file.write_text("registry_adr: :5000\n")
    assert main([command, "--config", str(file)]) == 2
    assert "did you mean registry_addr?" in capsys.readouterr().err
