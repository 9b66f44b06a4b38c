"""`spegel-py cleanup`: restore containerd's folder of hosts.toml files."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from spegel_py import settings
from spegel_py.commands import runtime_report
from spegel_py.commands.config_file_flag import add_config_flag, other_settings
from spegel_py.commands.folder_report import Output, print_changes, set_up
from spegel_py.commands.output import add_json_flag, print_json, print_line
from spegel_py.errors import HostError
from spegel_py.host.cleanup import SETTINGS, Cleaned, clean_up_and_serve, log_cleaned
from spegel_py.host.folder_check import why_foreign
from spegel_py.host.own_names import BACKUP, EDITED
from spegel_py.host.replica_cleanup import release_replicas
from spegel_py.host.runtimes import Runtime
from spegel_py.tools.runtime_token import write_tokens

log = structlog.get_logger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the arguments of `cleanup`."""
    parser.epilog = (
        "Exit status: 0 if the folder is as it was, 1 if it is no folder of containerd's."
    )
    add_config_flag(parser)
    add_json_flag(parser)
    settings.add_flags(parser, SETTINGS)


def run(args: argparse.Namespace) -> int:
    """Restore the folder, then serve the probe if there is an address; returns the exit status.

    Raises ConfigError, HostError.
    """
    values = settings.resolve(
        SETTINGS,
        flags=vars(args),
        environment=os.environ,
        file=args.config,
        others=other_settings(),
    )
    output = set_up(args, values)
    if values["runtime"] != Runtime.CONTAINERD:
        runtime_report.clean_up(values, output)
        return 0
    root, address = values["containerd_registry_config_path"], values["addr"]
    reason = why_foreign(root)
    if reason is not None:
        if not address and output is Output.TEXT:
            raise HostError(f"{reason}; nothing was changed")
        log.warning("no folder of containerd's", path=str(root), reason=reason)
        if not address:
            if output is Output.OBJECT:
                print_json(_object(Cleaned(root, (), has_backup=False), None, reason))
            return 1
    release = partial(_release, values)
    released = None if address else asyncio.run(release())

    def tell(cleaned: Cleaned) -> None:
        _remove_tokens(values["runtime_token"])
        match output:
            case Output.LOG:
                log_cleaned(cleaned)
            case Output.OBJECT:
                print_json(_object(cleaned, released, reason))
            case Output.TEXT:
                _print(cleaned)
        sys.stdout.flush()  # the probe may be served for long

    linger = values["linger"]
    asyncio.run(clean_up_and_serve(root, address, linger=linger, tell=tell, release=release))
    return 0


def _remove_tokens(path: Path | None) -> None:
    """Remove the token file, if one is given: no hosts.toml has a token any more."""
    if path is not None:
        write_tokens(path, ())


async def _release(values: Mapping[str, Any]) -> int | None:
    """Release the replicas in containerd; return their number, None if they are left."""
    socket = values["containerd_sock"]
    if values["keep_replicas"] or socket is None or not socket.exists():
        return None
    return await release_replicas(socket, values["containerd_namespace"])


def _print(cleaned: Cleaned) -> None:
    if cleaned.has_backup:
        print_line(f"{cleaned.root} is as it was before the first configuration:")
        print_changes(cleaned.changes)
    else:
        print_line(f"nothing to put back: there is no {cleaned.root / BACKUP}")
    copies = cleaned.root / EDITED
    if copies.is_dir():
        print_line(f"files that were changed by hand stay in {copies}: delete it if you need none")


def _object(cleaned: Cleaned, released: int | None, problem: str | None) -> dict[str, object]:
    """Return the result as JSON; `problem` says why the folder is none of containerd's."""
    return {
        "folder": str(cleaned.root),
        "has_backup": cleaned.has_backup,
        "registries": [one.as_record() for one in cleaned.changes],
        "replicas_released": released,
        "problem": problem,
    }
