"""The systemd unit and its guide: every command line and setting in them is one the program
knows.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from spegel_py import cli, settings
from spegel_py.commands.doctor_command import OWN as DOCTOR
from spegel_py.config import REGISTRY, Config
from spegel_py.host.configuration import SETTINGS as CONFIGURATION

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = FOLDER / "spegel-py.service"
GUIDE = FOLDER.parents[1] / "docs" / "guides" / "host.md"
PROGRAM = "/opt/spegel-py/bin/spegel-py"


def values(key: str) -> list[str]:
    """Return the values of a key in the unit, which may have several."""
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)


def environment(*lines: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in lines)


def example(*, is_commented: bool) -> dict[str, str]:
    """Return the variables of the example file: those it sets, or those it offers in comments."""
    sign = "#" if is_commented else ""
    return dict(
        re.findall(
            rf"^{sign}([A-Z_]+)=(.*)$", (FOLDER / "environment.example").read_text(), re.MULTILINE
        )
    )


def commands() -> list[str]:
    """Return every command line of ours in the unit and in its guide."""
    in_unit = re.findall(r"^Exec\w+=[-+]*(.+)$", UNIT.read_text(), re.MULTILINE)
    guide = GUIDE.read_text().replace("\\\n", " ")  # a command may go on in the next line
    return in_unit + re.findall(rf"(?<!ln -s ){PROGRAM} [^)\n>&]*", guide)


@pytest.mark.parametrize("command", commands())
def test_every_command_line_is_one_the_program_takes(command: str) -> None:
    """A flag that is wrong or was renamed fails here and not on somebody's machine."""
    program, *arguments = shlex.split(command)
    assert program == PROGRAM
    assert callable(cli._parser(arguments).parse_args(arguments).run)


def test_the_unit_and_the_example_are_a_whole_configuration() -> None:
    """With the set and the suggested variables, both commands of the unit have all settings."""
    set_up = environment(*values("Environment")) | example(is_commented=False)
    for given in (set_up, set_up | example(is_commented=True)):
        config = Config.load(flags={}, environment=given, file=None)
        assert str(config.data_dir) == "/var/lib/" + values("StateDirectory")[0]
        configuration = settings.resolve(CONFIGURATION, flags={}, environment=given, file=None)
        assert [str(target) for target in configuration["mirror_targets"]] == [
            "http://127.0.0.1:5000"
        ]


def test_every_variable_of_the_example_is_a_setting() -> None:
    """A variable that nothing reads would be believed in vain."""
    known = {setting.variable for setting in (*REGISTRY, *CONFIGURATION, *DOCTOR)}
    assert example(is_commented=False).keys() | example(is_commented=True).keys() <= known


def test_a_shell_reads_the_example_as_systemd_does() -> None:
    """The page has people source the file."""
    script = f"set -a; . {FOLDER}/environment.example; env"
    lines = subprocess.run(
        ["sh", "-euc", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert (
        example(is_commented=False).items()
        <= environment(*(line for line in lines if "=" in line)).items()
    )


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")
def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path) -> None:
    """No unknown key, no bad value, no command that cannot be run."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(PROGRAM, "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_step_before_the_start_is_the_only_one_with_powers() -> None:
    """With "+" neither the bounding set nor the read-only file system is for it; tests/integration
    shows it at work.
    """
    assert values("ExecStartPre") == [f"-+{PROGRAM} configuration"]
    assert values("ExecStart") == [f"{PROGRAM} registry"]
    assert values("CapabilityBoundingSet") == [""]


def test_the_boot_does_not_wait_for_it() -> None:
    """It requires and binds itself to nothing, and its start is over when it runs."""
    assert not re.search(
        r"^(Requires|BindsTo|PartOf|Requisite|Wants|Before)=", UNIT.read_text(), re.MULTILINE
    )
    assert values("Type") == ["exec"]
    assert values("Restart") == ["always"]
