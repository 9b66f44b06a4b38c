"""What one pull asks of peers: races and spreads take from the same candidates and note the same attempts."""

from __future__ import annotations

from collections.abc import Callable

from spegel_py.mirror.attempts import Attempt, Attempts
from spegel_py.mirror.candidates import Candidates
from spegel_py.mirror.hedge import Latencies, Schedule
from spegel_py.mirror.race import Check, Race
from spegel_py.mirror.spread import Spread
from spegel_py.oci.range import ByteRange
from spegel_py.transfer.base import PeerRequest, Sink


class Asking:
    """Asks the `candidates`, at the times that go by what all peers take (`latencies`)."""

    def __init__(
        self,
        *,
        candidates: Candidates,
        attempts: Attempts,
        latencies: Latencies,
        clock: Callable[[], float],
    ) -> None:
        self._candidates = candidates
        self._latencies = latencies
        self._clock = clock
        self.attempts = attempts

    def __repr__(self) -> str:
        return f"<Asking {self._candidates!r}: {self.attempts!r}>"

    @property
    def can_go_on(self) -> bool:
        """Whether somebody is known who could be asked."""
        return self._candidates.has_more()

    def look_again(self) -> None:
        """Have it looked up whether somebody else has got the content meanwhile."""
        self._candidates.refresh()

    async def race(
        self, request: PeerRequest, *, check: Check = lambda *_: None, offset: int = 0
    ) -> Attempt | None:
        """Return the first usable answer, whose body starts at the byte `offset` of the content; see Race."""
        return await Race(
            request=request,
            check=check,
            offset=offset,
            schedule=Schedule(delays=self._latencies.delays()),
            candidates=self._candidates,
            attempts=self.attempts,
            clock=self._clock,
        ).run()

    async def spread(
        self,
        first: int,
        last: int,
        sink: Sink,
        *,
        peers: int,
        request: Callable[[ByteRange], PeerRequest],
    ) -> None:
        """Send the bytes `first` to `last` of the content from up to `peers` peers at once; see Spread."""
        await Spread(
            first=first,
            last=last,
            peers=peers,
            candidates=self._candidates,
            attempts=self.attempts,
            request=request,
            clock=self._clock,
        ).run(sink)
