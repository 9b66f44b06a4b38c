"""Completion as a shell does it: the script is made by the program, and a real bash is asked what
it would offer.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spegel_py.cli import COMMANDS, main
from tests.support.terminals import terminal

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


def installed(shell: str) -> str:
    """Return a shell's program. Without it the test is skipped, but in CI it fails."""
    program = shutil.which(shell)
    if program is None and os.environ.get("CI") == "true":
        pytest.fail(f"{shell} is not installed: .ci/setup test installs it")
    if program is None:
        pytest.skip(f"{shell} is not installed")
    return program


def script_of(shell: str, path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Write a shell's script as the command prints it."""
    assert main(["completion", shell]) == 0
    path.write_text(capsys.readouterr().out)
    return path


OFFERS = (
    ("re", {"registry", "resolve"}),
    ("status --", {"--json", "--wide", "--node", "--metrics-addr"}),
    ("registry --mirror-p", {"--mirror-parallel"}),
    ("registry --verify-blobs ", {"off", "sample", "all"}),
    ("completion ", {"bash", "zsh", "fish"}),
)
"""The beginnings of a line, and the words that a shell offers there."""


@pytest.mark.parametrize(("typed", "expected"), OFFERS, ids=[typed for typed, _ in OFFERS])
def test_fish_completes(
    typed: str, expected: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real fish is asked for its completions of the line."""
    fish = installed("fish")
    path = script_of("fish", tmp_path / "spegel-py.fish", capsys)
    done = subprocess.run(
        [fish, "--no-config", "-c", f"source {path}; complete -C 'spegel-py {typed}'"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert done.stderr == ""
    assert expected <= {line.partition("\t")[0] for line in done.stdout.splitlines()}


def test_zsh_completes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A person types at a real zsh, and presses the tabulator."""
    zsh = installed("zsh")
    script_of("zsh", tmp_path / "_spegel-py", capsys)
    with terminal([zsh, "-f", "-i"], columns=200, environment={"HOME": str(tmp_path)}) as screen:
        screen.type(
            f"fpath=({tmp_path} $fpath); autoload -Uz compinit; compinit -u -D; "
            "setopt auto_list no_beep; LISTMAX=10000; PROMPT=; print rea''dy\n"
        )
        screen.read("ready")
        for typed, expected in OFFERS:
            screen.forget()
            is_whole = len(expected) == 1
            # a flag that is the only one is completed at once; several are listed
            screen.type(f"spegel-py {typed}\t" + ("" if is_whole else "\t"))
            screen.read(*(each.removeprefix(typed.split()[-1]) for each in expected))
            screen.type("\x15")  # clears the line


def test_a_shell_that_is_not_known_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """One line has the possible shells."""
    assert main(["completion", "tcsh"]) == 2
    assert "'tcsh'" in capsys.readouterr().err
