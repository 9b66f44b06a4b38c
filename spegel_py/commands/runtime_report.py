"""`configuration` and `cleanup` for other runtimes than containerd: one file, and its report."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import structlog

from spegel_py.commands.folder_report import Output
from spegel_py.commands.output import print_json, print_line
from spegel_py.errors import ConfigError
from spegel_py.host.configuration import about_answer, log_answers
from spegel_py.host.disk_steps import Disk
from spegel_py.host.http_probe import MirrorAnswer
from spegel_py.host.runtimes import NEXT, Runtime, RuntimeMirrors, file_of

log = structlog.get_logger(__name__)


def print_diff(mirrors: RuntimeMirrors, output: Output) -> None:
    """Show the change that `configure` would make. Raises ConfigError, HostError."""
    mirrors.check()
    file = file_of(mirrors.runtime, mirrors.path)
    before, after = file.preview(mirrors.edit)
    lines = list(
        difflib.unified_diff(
            before.splitlines(), after.splitlines(), str(file.path), str(file.path), lineterm=""
        )
    )
    if output is Output.OBJECT:
        print_json(_object(mirrors, is_changed=before != after, is_dry_run=True, diff=lines))
        return
    print_line(f"{file.path}, if this is run without --dry-run:")
    for line in lines:
        print_line(line, wide=True)


def configure(mirrors: RuntimeMirrors) -> bool:
    """Write the mirrors into the runtime's file; return False if it has them already.

    Raises ConfigError, HostError.
    """
    mirrors.check()
    file = file_of(mirrors.runtime, mirrors.path)
    return file.change(mirrors.edit, mirrors.names, Disk())


def report(
    mirrors: RuntimeMirrors,
    answers: Mapping[str, MirrorAnswer],
    output: Output,
    *,
    is_changed: bool,
) -> None:
    """Show the result of `configure`, and how the runtime reads it."""
    path, then = file_of(mirrors.runtime, mirrors.path).path, NEXT[mirrors.runtime]
    match output:
        case Output.LOG:
            event = "runtime is configured" if is_changed else "runtime was configured"
            log.info(event, runtime=mirrors.runtime.value, path=str(path), remedy=then)
            log_answers(answers)
        case Output.OBJECT:
            print_json(_object(mirrors, is_changed=is_changed, answers=answers))
        case Output.TEXT:
            done = "has the mirrors now" if is_changed else "had the mirrors already"
            print_line(f"{path} {done}; {then}")
            for mirror, answer in answers.items():
                print_line(about_answer(mirror, answer))


def clean_up(values: Mapping[str, Any], output: Output) -> None:
    """Put a runtime's file back, and show that. Raises ConfigError, HostError."""
    runtime = Runtime(values["runtime"])
    if values["addr"]:
        raise ConfigError("--addr: the probe is for Pods that clean up after containerd")
    file = file_of(runtime, values["runtime_file"])
    is_restored = file.restore(Disk())
    match output:
        case Output.LOG:
            event = "runtime's file is put back" if is_restored else "nothing to put back"
            log.info(event, runtime=runtime.value, path=str(file.path))
        case Output.OBJECT:
            print_json({"runtime": runtime.value, "file": str(file.path), "restored": is_restored})
        case Output.TEXT if is_restored:
            then = NEXT[runtime].partition(";")[0]
            print_line(f"{file.path} is as it was before the first configuration; {then}")
        case Output.TEXT:
            print_line(f"nothing to put back: there is no {file.record_path}")


def _object(
    mirrors: RuntimeMirrors,
    *,
    is_changed: bool,
    is_dry_run: bool = False,
    answers: Mapping[str, MirrorAnswer] | None = None,
    diff: list[str] | None = None,
) -> dict[str, object]:
    return {
        "runtime": mirrors.runtime.value,
        "file": str(file_of(mirrors.runtime, mirrors.path).path),
        "dry_run": is_dry_run,
        "changed": is_changed,
        "mirrors": [
            {"mirror": mirror, "answers": answer.is_up, "answer": answer.text}
            for mirror, answer in (answers or {}).items()
        ],
        "next": NEXT[mirrors.runtime],
        "diff": diff or [],
    }
