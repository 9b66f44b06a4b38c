"""Requests to coordinators, and this node's answers as a coordinator itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

import structlog

from spegel_py.errors import PeerError
from spegel_py.inflight.coordinator import Coordinator
from spegel_py.inflight.message_fields import MessageError
from spegel_py.inflight.messages import (
    CoordinatorRequest,
    CoordinatorResponse,
    decode_request,
    decode_response,
    encode,
)
from spegel_py.inflight.rendezvous import ranked_nodes
from spegel_py.inflight.rules import InFlightRules
from spegel_py.oci.digest import Digest
from spegel_py.routing.base import RequestResponse

log = structlog.get_logger(__name__)


class CoordinatorClient:
    """Sends a request to the first coordinator that answers, which may be this node itself."""

    def __init__(
        self, *, requests: RequestResponse, rules: InFlightRules, clock: Callable[[], float]
    ) -> None:
        self._requests = requests
        self._rules = rules
        self._clock = clock
        self._own = Coordinator(own=requests.id, now=clock(), rules=rules)
        self._lock = threading.Lock()  # peers' requests come in any thread
        self._unresponsive: dict[str, float] = {}  # coordinators without an answer → until when

    def __repr__(self) -> str:
        return f"<CoordinatorClient {self._own!r}>"

    @property
    def unresponsive(self) -> dict[str, float]:
        """The coordinators that are asked last, and until when."""
        return dict(self._unresponsive)

    def serve(self) -> None:
        """Answer peers' requests from now on."""
        self._requests.set_handler(
            lambda name, raw: encode(self._answer_as_coordinator(name, decode_request(raw)))
        )

    def update_members(self) -> None:
        """Tell this node's own coordinator which peers are connected now."""
        with self._lock:
            self._own.set_members(self._requests.partners().keys(), self._clock())

    def ranked(self, digest: Digest, count: int) -> list[str]:
        """Return the coordinators to ask about a digest, best first, unresponsive ones last."""
        now = self._clock()
        self._unresponsive = {
            name: until for name, until in self._unresponsive.items() if until > now
        }
        names = ranked_nodes(digest, {self._requests.id, *self._requests.partners()}, count)
        return sorted(names, key=lambda name: name in self._unresponsive)

    async def request(
        self, request: CoordinatorRequest, *, without: Collection[str] = ()
    ) -> tuple[str, CoordinatorResponse | None]:
        """Return the first coordinator that answers, and its answer, or None if nobody answers.

        Coordinators in `without` are not asked.
        """
        name = ""
        for name in self.ranked(request.digest, self._rules.coordinators):
            if name in without:
                continue
            if (answer := await self.request_one(name, request)) is not None:
                return name, answer
        return name, None

    async def request_one(
        self, name: str, request: CoordinatorRequest, *, within: float | None = None
    ) -> CoordinatorResponse | None:
        """Return the answer of the coordinator `name`, or None.

        After the default deadline it counts as unresponsive; after a shorter one, `within` seconds,
        it does not.
        """
        if name == self._requests.id:
            return self._answer_as_coordinator(name, request)
        timeout = within or self._rules.answer_within(len(self._requests.partners()))
        try:
            return decode_response(
                await self._requests.request(name, encode(request), timeout=timeout)
            )
        except (PeerError, MessageError) as error:
            log.debug(
                "steward does not answer", peer=name, digest=str(request.digest), error=str(error)
            )
            if within is None:
                self._unresponsive[name] = self._clock() + self._rules.unresponsive
            return None

    def _answer_as_coordinator(self, name: str, request: CoordinatorRequest) -> CoordinatorResponse:
        with self._lock:
            now = self._clock()
            self._own.set_members(self._requests.partners().keys(), now)
            return self._own.answer(name, request, now)
