"""More peers are asked for a tag until enough of its observers name the same digest."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from spegel_py.errors import PeerError, PeerRefused
from spegel_py.mirror.attempts import Attempt
from spegel_py.mirror.pull_state import PullState
from spegel_py.mirror.tag_book import TagBook
from spegel_py.oci.digest import Digest
from spegel_py.outcomes import AttemptOutcome

AT_ONCE = 4
"""Peers that are asked at the same time. Each answers a HEAD, in about 2 ms."""


async def has_witnesses(state: PullState, tags: TagBook, name: str, digest: Digest) -> bool:
    """Return True if enough nodes saw the answered digest of a tag at its registry.

    Ask further holders of the tag for their observations until that is so, or no holder is left.
    """
    while not tags.has_witnesses(
        name, digest, max_age=state.max_age, is_registry_away=state.is_registry_away
    ):
        asked: list[Attempt] = []
        while len(asked) < AT_ONCE and (peer := state.candidates.take()) is not None:
            asked.append(state.attempts.begin(peer))
        if not asked and not await state.candidates.wait_for_peer():
            tags.count_too_few()
            _mark_unbelieved(state)
            return False
        await asyncio.gather(*(_ask(state, attempt) for attempt in asked))
    return True


async def _ask(state: PullState, attempt: Attempt) -> None:
    """Ask one holder for the tag's observation, which is recorded if it is believed."""
    request = replace(state.request(None, None), head=True)
    try:
        response = await state.attempts.ask(attempt, request)
        digest = response.answer.digest
        if digest is None:
            raise PeerRefused("a tag without a Docker-Content-Digest", status=200)
        state.tag_age(digest, response.answer, attempt.peer)
    except PeerError as error:
        await state.attempts.fail(attempt, error)
    else:
        await state.attempts.succeed(attempt)


def _mark_unbelieved(state: PullState) -> None:
    """Let the record of the pull say why it was a miss, though the peers answered well."""
    for attempt in state.attempts.made:
        if attempt.outcome is AttemptOutcome.OK:
            attempt.outcome = AttemptOutcome.UNBELIEVED
