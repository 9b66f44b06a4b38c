"""The rogue as a process: `python -m tests.faults.rogue FILE` reads its world as JSON from a file, and attacks by turns.

It writes one line of JSON for each turn: the attack, and after its end the seconds it took and what it failed of, if it
failed on its own side. It ends after `tours` of all attacks, each turn of `seconds`, or at a signal.
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
from tests.faults.rogue.attacks import ATTACKS, Attack, World
from tests.faults.rogue.registry import CHECKS, RogueRegistry


def main() -> None:
    """Attack until all tours are over."""
    given: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    tours, seconds, only = (
        given.pop("tours"),
        given.pop("seconds"),
        given.pop("only", None) or list(ATTACKS),
    )
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    signal.signal(signal.SIGTERM, _end)
    compat.silence()
    logging.disable(logging.CRITICAL)
    content = {
        f"sha256:{file.name}": file.read_bytes() for file in Path(given.pop("content")).iterdir()
    }
    sizes = {digest: len(data) for digest, data in content.items()}
    world = World(http=RogueRegistry(given["address"], 5000, content), sizes=sizes, **given)
    for _ in range(tours):
        for name in only:
            _say(attack=name)
            began, failure = (
                time.monotonic(),
                trio.run(partial(_turn, ATTACKS[name], world, seconds)),
            )
            _say(attack=name, seconds=round(time.monotonic() - began, 1), failure=failure)
            world.http.way, world.http.check, world.http.own = None, CHECKS["well"], {}
    _say(asked=len(world.http.asked))


async def _turn(attack: Attack, world: World, seconds: float) -> str:
    """Let one attack go on for so long, and return what it failed of."""
    failed: list[str] = []
    try:
        with trio.move_on_after(seconds):
            await attack(world)
    except* Exception as failures:
        failed.append(repr(failures)[:300])
    return "".join(failed)


def _say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    main()
