"""`spegel-py configuration`: write hosts.toml files, so that containerd asks the mirror first.

With `--runtime` it writes the file of another runtime.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from spegel_py import settings
from spegel_py.commands import runtime_report
from spegel_py.commands.config_file_flag import add_config_flag, other_settings
from spegel_py.commands.folder_report import Output, print_changes, set_up
from spegel_py.commands.output import add_json_flag, print_json, print_line
from spegel_py.errors import ConfigError
from spegel_py.host.changes import RegistryChange
from spegel_py.host.configuration import (
    SETTINGS,
    about_answer,
    ask_mirrors,
    configure,
    lasting,
    log_answers,
    log_changes,
    preview,
    renewed_token,
)
from spegel_py.host.disk_steps import Disk
from spegel_py.host.folder_check import why_foreign
from spegel_py.host.http_probe import MirrorAnswer
from spegel_py.host.mirroring import Mirroring
from spegel_py.host.registries import parse_registries
from spegel_py.host.runtimes import Runtime, RuntimeMirrors
from spegel_py.node_name import node_name
from spegel_py.tools.basic_auth import Credentials
from spegel_py.tools.runtime_token import new_token


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the arguments of `configuration`."""
    parser.epilog = (
        "The previous files are kept in _backup; `spegel-py cleanup` puts them back. Registries "
        "that are not named lose the mirror: name _default beside one registry to have both. "
        "--runtime crio, podman, docker or buildkit changes that runtime's file instead, and "
        "keeps all else in it."
    )
    add_config_flag(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show the changes of each registry and of each file, and change nothing",
    )
    add_json_flag(parser)
    settings.add_flags(parser, SETTINGS)


def run(args: argparse.Namespace) -> int:
    """Write the files; returns 0. Raises ConfigError, HostError."""
    if os.getpid() == 1:
        # The first process of a container gets only signals that it handles. Without a handler, a
        # Pod that is deleted while this waits for a clean-up would configure its node afterwards.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    values = settings.resolve(
        SETTINGS,
        flags=vars(args),
        environment=os.environ,
        file=args.config,
        others=other_settings(),
    )
    output = set_up(args, values)
    if not values["mirror_targets"]:
        raise ConfigError(
            "--mirror-targets (or MIRROR_TARGETS) is missing: give http://127.0.0.1:5000 or the "
            "like"
        )
    token_file: Path | None = values["runtime_token"]
    mirroring = Mirroring(
        registries=values["mirrored_registries"] or parse_registries(()),
        targets=values["mirror_targets"],
        node=node_name(values["node_name"]),
        resolves_tags=values["resolve_tags"],
        keeps_existing=values["prepend_existing"],
        credentials=Credentials.read(),
    )
    if values["runtime"] != Runtime.CONTAINERD:
        if token_file:
            raise ConfigError(
                f"--runtime-token: {values['runtime']} cannot send a token: its files have no "
                "headers; leave it out, of the node's settings too"
            )
        return _configure_runtime(values, output, is_dry_run=args.dry_run)
    root = values["containerd_registry_config_path"]
    if (reason := why_foreign(root)) is not None:
        raise ConfigError(f"--containerd-registry-config-path: {reason}; nothing was changed")
    if values["containerd_sock"]:
        # Imported here because gRPC takes longer to load than everything else together.
        from spegel_py.host.config_path_check import check_searched

        asyncio.run(check_searched(values["containerd_sock"], root))
    if args.dry_run:
        token = new_token() if token_file else ""  # as in the diff, where it is not shown
        _preview(root, replace(mirroring, token=token), output)
        return 0
    with renewed_token(token_file) as token:
        found = configure(root, replace(mirroring, token=token), Disk())
    answers = asyncio.run(ask_mirrors(mirroring.targets))
    _report(root, found, answers, output)
    return 0


def _configure_runtime(values: Mapping[str, Any], output: Output, *, is_dry_run: bool) -> int:
    mirrors = RuntimeMirrors(
        runtime=Runtime(values["runtime"]),
        registries=values["mirrored_registries"] or parse_registries(()),
        targets=values["mirror_targets"],
        resolves_tags=values["resolve_tags"],
        has_password=Credentials.read() is not None,
        path=values["runtime_file"],
    )
    if is_dry_run:
        runtime_report.print_diff(mirrors, output)
        return 0
    is_changed = runtime_report.configure(mirrors)
    answers = asyncio.run(ask_mirrors(mirrors.targets))
    runtime_report.report(mirrors, answers, output, is_changed=is_changed)
    return 0


def _report(
    root: Path,
    found: Sequence[RegistryChange],
    answers: Mapping[str, MirrorAnswer],
    output: Output,
) -> None:
    match output:
        case Output.LOG:
            log_changes(root, found)
            log_answers(answers)
        case Output.OBJECT:
            print_json(_object(root, found, answers))
        case Output.TEXT:
            print_line(f"{root}:")
            print_changes(found, advice=partial(_advice, root))
            for mirror, answer in answers.items():
                print_line(about_answer(mirror, answer))


def _preview(root: Path, mirroring: Mirroring, output: Output) -> None:
    """Show the changes and the diff; a log is not asked for in a dry run, so it has the text."""
    found, lines = preview(root, mirroring)
    if output is Output.OBJECT:
        print_json(_object(root, found, {}, is_dry_run=True, diff=list(lines)))
        return
    print_line(f"{root}, if this is run without --dry-run:")
    print_changes(found, advice=partial(_advice, root), is_done=False)
    for line in lines:
        print_line(line, wide=True)


def _advice(root: Path, one: RegistryChange) -> str:
    return f"; {lasting(root, one)}"


def _object(
    root: Path,
    found: Sequence[RegistryChange],
    answers: Mapping[str, MirrorAnswer],
    *,
    is_dry_run: bool = False,
    diff: Sequence[str] = (),
) -> dict[str, object]:
    return {
        "folder": str(root),
        "dry_run": is_dry_run,
        "registries": [one.as_record() for one in found],
        "mirrors": [
            {"mirror": mirror, "answers": answer.is_up, "answer": answer.text}
            for mirror, answer in answers.items()
        ],
        "diff": list(diff),
    }
