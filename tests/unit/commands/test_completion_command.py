"""Completion as a shell does it: the script is made by the program, and a real bash is asked what
it would offer.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spegel_py.cli import COMMANDS, main

_ASK = """
source {script}
COMP_WORDS=({words})
COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
COMP_LINE="${{COMP_WORDS[*]}}"
COMP_POINT=${{#COMP_LINE}}
$(complete -p spegel-py | sed -n 's/.* -F \\([^ ]*\\) .*/\\1/p')
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script for bash, as the command prints it."""
    path = tmp_path_factory.mktemp("completion") / "bash"
    done = subprocess.run(
        [sys.executable, "-m", "spegel_py", "completion", "bash"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    path.write_text(done.stdout)
    return path


def offered(script: Path, *words: str) -> set[str]:
    """Return bash's completions for the last word."""
    ask = _ASK.format(script=script, words=" ".join(map(shlex.quote, ("spegel-py", *words))))
    done = subprocess.run(
        ["bash", "-c", ask], capture_output=True, text=True, check=True, timeout=30
    )
    return {line.strip() for line in done.stdout.splitlines()}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("",), {command.name for command in COMMANDS}),
        (("re",), {"registry", "resolve"}),
        (
            ("registry", "--mirror-"),
            {"--mirror-resolve-timeout", "--mirror-resolve-retries", "--mirror-parallel"},
        ),
        (("registry", "--verify-blobs", ""), {"off", "sample", "all"}),
        (("registry", "--bootstrap-kind", "d"), {"dns"}),
        (("registry", "--debug-web-enabled", "t"), {"true"}),
        (("why", "--no"), {"--node"}),
        (("doctor", "--js"), {"--json"}),
        (("completion", ""), {"bash", "zsh", "fish"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bash_completes(script: Path, words: tuple[str, ...], expected: set[str]) -> None:
    """Commands, their flags, and the values of flags that have few."""
    assert expected <= offered(script, *words)
    if words[-1]:
        assert all(each.startswith(words[-1]) for each in offered(script, *words))


def test_bash_completes_paths(script: Path, tmp_path: Path) -> None:
    """Where a file or a folder is wanted."""
    (tmp_path / "node.yaml").touch()
    for flag in ("--config", "--data-dir"):
        assert offered(script, "registry", flag, f"{tmp_path}/no") == {f"{tmp_path}/node.yaml"}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With all commands in it; where the shell is installed it takes the script without a
    complaint.
    """
    assert main(["completion", shell]) == 0
    made = capsys.readouterr().out
    assert all(command.name in made for command in COMMANDS)
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=made, text=True, check=True, timeout=30)


def test_a_shell_that_is_not_known_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """One line has the possible shells."""
    assert main(["completion", "tcsh"]) == 2
    assert "'tcsh'" in capsys.readouterr().err
