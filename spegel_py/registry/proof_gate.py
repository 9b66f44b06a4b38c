"""The answering side of proofs between peers: requests are checked, and answers proven."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from spegel_py.errors import Unauthorized
from spegel_py.oci.distribution import MIRRORED_HEADER
from spegel_py.registry import responses
from spegel_py.routing.peer_proofs import (
    PROOF_HEADER,
    NodeSecret,
    PeerProofs,
    ProofInvalid,
    ProofResult,
    RequestProof,
)
from spegel_py.tools.bounded import BoundedDict

log = structlog.get_logger(__name__)

PROVEN = web.RequestKey("proven", str)
"""The key of the id of the peer that a request proved to come from."""

_PROOF = web.RequestKey("proof", RequestProof)

MAX_LOGGED = 256
"""Addresses whose unproven requests were logged, and are not logged again."""


class ProofGate:
    """Checks the proofs of requests, and adds proofs to their answers.

    Args:
        is_member: returns True for the id of a peer that may be answered: it is connected, and has
            proved that it knows the password, if this node has one.
        counted: counts the results of checked requests.
    """

    def __init__(
        self,
        *,
        secret: NodeSecret,
        mode: PeerProofs,
        is_member: Callable[[str], bool],
        counted: Callable[[ProofResult], None] = lambda result: None,
    ) -> None:
        self._secret = secret
        self._mode = mode
        self._is_member = is_member
        self._counted = counted
        self._logged: BoundedDict[str, None] = BoundedDict(limit=MAX_LOGGED)

    def __repr__(self) -> str:
        return f"<ProofGate {self._mode.value}>"

    @property
    def is_required(self) -> bool:
        """True if only proven peers, and this node's own runtime, are answered."""
        return self._mode is PeerProofs.REQUIRE

    def middleware(self) -> Middleware:
        """Return the middleware that checks the proof of each request that has one."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            if (error := self._check(request)) is not None:
                return responses.error(error)
            return await handler(request)

        return check

    async def sign(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add the proof to an answer whose headers are complete (a signal of aiohttp)."""
        if (proof := request.get(_PROOF)) is not None:
            response.headers[PROOF_HEADER] = proof.answer(response.status, response.headers)

    def _check(self, request: web.Request) -> Unauthorized | None:
        """Record the peer that a request proves; return the error for a proof that is not right.

        Case 1: a request without a proof is a runtime's, or that of a peer which was told no key.
        Case 2: a proof that is not right. The peer is to ask elsewhere, as it would not believe an
        answer without a proof.
        Case 3: the peer is not connected here any more, or has not proved the password. It gets a
        proven answer, but counts as a stranger.
        """
        header = request.headers.get(PROOF_HEADER)
        if header is None:
            if request.headers.get(MIRRORED_HEADER) == "true":
                self._record(request, ProofResult.MISSING)
            return None
        try:
            proof = self._secret.check(
                header, method=request.method, target=request.raw_path, headers=request.headers
            )
        except ProofInvalid as error:
            self._record(request, error.result, error=str(error))
            return Unauthorized(str(error))
        request[_PROOF] = proof
        if not self._is_member(proof.peer):
            self._record(request, ProofResult.UNKNOWN, peer=proof.peer)
            return None
        self._counted(ProofResult.RIGHT)
        request[PROVEN] = proof.peer
        return None

    def _record(self, request: web.Request, result: ProofResult, **fields: str) -> None:
        """Count a request that is not proven, and log the first one of each address."""
        self._counted(result)
        client = request.remote or ""
        if client not in self._logged:
            self._logged[client] = None
            log.info("request of a peer not proven", client=client, proof=result.value, **fields)
