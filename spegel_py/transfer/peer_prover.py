"""The asking side of proofs between peers: requests are proven, and answers checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import structlog

from spegel_py.errors import PeerUnproven
from spegel_py.routing.base import Peer
from spegel_py.routing.peer_proofs import (
    PROOF_HEADER,
    PeerKey,
    PeerProofs,
    ProofResult,
    RequestProof,
)
from spegel_py.tools.bounded import BoundedDict

log = structlog.get_logger(__name__)

MAX_LOGGED = 256
"""Peers whose unproven answers were logged, and are not logged again."""


class PeerProver:
    """Proves this node's requests to peers, and checks their answers.

    Args:
        own_id: this node's peer id.
        key_of: returns the key that a connected peer told, None if there is none.
        mode: with REQUIRE, a peer that told no key is not asked.
        counted: counts the results of checked answers.
    """

    def __init__(
        self,
        *,
        own_id: str,
        key_of: Callable[[str], PeerKey | None],
        mode: PeerProofs = PeerProofs.PREFER,
        counted: Callable[[ProofResult], None] = lambda result: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own_id = own_id
        self._key_of = key_of
        self._mode = mode
        self._counted = counted
        self._clock = clock
        self._logged: BoundedDict[str, None] = BoundedDict(limit=MAX_LOGGED)

    def __repr__(self) -> str:
        return f"<PeerProver {self._mode.value}>"

    def prove(
        self, peer: Peer, *, method: str, target: str, headers: Mapping[str, str]
    ) -> RequestProof | None:
        """Return the proof of a request, None for a peer that is asked without.

        Raises PeerUnproven if proofs are required, and the peer told no key.
        """
        key = None if self._mode is PeerProofs.OFF else self._key_of(peer.id)
        if key is not None:
            return key.prove(
                self._own_id, method=method, target=target, headers=headers, now=self._clock()
            )
        if self._mode is PeerProofs.REQUIRE:
            raise self._refusal(peer, "the peer told no key for proofs, and --peer-proofs=require")
        return None

    def check(
        self, peer: Peer, proof: RequestProof, status: int, headers: Mapping[str, str]
    ) -> None:
        """Check that an answer is the peer's own. Raises PeerUnproven."""
        if proof.is_right(status, headers):
            self._counted(ProofResult.RIGHT)
            self._logged.pop(peer.id, None)
            return
        is_missing = PROOF_HEADER not in headers
        self._counted(ProofResult.MISSING if is_missing else ProofResult.WRONG)
        which = "without a proof" if is_missing else "with a wrong proof"
        hint = ": the peer may have restarted" if status == 401 else ""
        raise self._refusal(peer, f"an answer ({status}) {which}, which is not believed{hint}")

    def _refusal(self, peer: Peer, text: str) -> PeerUnproven:
        """Return the error, and log the first one of each peer in a row."""
        if peer.id not in self._logged:
            self._logged[peer.id] = None
            log.warning("peer not proven", peer=peer.id, addr=peer.authority, error=text)
        return PeerUnproven(text)
