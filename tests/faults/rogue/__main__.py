"""The rogue as a process: `python -m tests.faults.rogue FILE` plays each attack once.

FILE has the environment as JSON, with the `seconds` of each attack and the names of the `only`
attacks to play, all if there are none. Two lines of JSON per attack go to stdout: its name when it
begins, and its seconds and its own failure, if any, when it ends.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys
import time
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import trio

from spegel_py.routing.libp2p import compat
from tests.faults.rogue.attacks import ATTACKS, Attack
from tests.faults.rogue.environment import Environment
from tests.faults.rogue.registry import HEALTH_ANSWERS, RogueRegistry


def main() -> None:
    """Play each attack once."""
    given: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    seconds, only = given.pop("seconds"), given.pop("only", None) or list(ATTACKS)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    signal.signal(signal.SIGTERM, _end)
    compat.silence()
    logging.disable(logging.CRITICAL)
    files = Path(given.pop("content")).iterdir()
    content = {f"sha256:{file.name}": file.read_bytes() for file in files}
    sizes = {digest: len(data) for digest, data in content.items()}
    http = RogueRegistry(given.pop("address"), 5000, content)
    env = Environment(http=http, sizes=sizes, **given)
    for name in only:
        _print(attack=name)
        began = time.monotonic()
        failure = trio.run(partial(_turn, ATTACKS[name], env, seconds))
        _print(attack=name, seconds=round(time.monotonic() - began, 1), failure=failure)
        http.answer, http.health_answer, http.genuine = None, HEALTH_ANSWERS["well"], {}
    _print(requests=len(http.requests))


async def _turn(attack: Attack, env: Environment, seconds: float) -> str:
    """Let an attack go on for this many seconds, and return its own failure as text."""
    failed: list[str] = []
    try:
        with trio.move_on_after(seconds):
            await attack(env)
    except* Exception as failures:
        failed.append(repr(failures)[:300])
    return "".join(failed)


def _print(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    main()
