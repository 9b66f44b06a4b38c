"""The rows of chaos: the faults, when they strike, and how pulls may end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from spegel_py.outcomes import MissReason
from tests.faults.chaos import faults
from tests.faults.chaos.faults import FailingDisks
from tests.faults.chaos.misbehaving_peer import LONG, SHORT, SLOW, WHOLE, peer
from tests.faults.chaos.round import Fault


class Expected(Enum):
    """How the pulls of a row end."""

    SUCCEED = "every pull succeeds at its first try, in time"
    RETRIED = "every pull succeeds when the runtime tries again, each try in time"
    FAIL = "every pull fails, in time, and leaves no wrong content"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kind of fault: `before` is there when the pull begins, `during` strikes in its middle."""

    name: str
    before: tuple[Fault, ...] = ()
    during: tuple[Fault, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)
    """Flags of all nodes."""
    expected: Expected = Expected.SUCCEED
    why: str = ""
    """Why nothing better is expected."""
    misses: frozenset[MissReason] = frozenset()
    """The reasons that a miss may have; none if a good peer is left, which answers in the end."""
    is_short: bool = True
    """Whether the short form plays it."""

    @property
    def tries(self) -> int:
        """Return how often a pull may be attempted, as a kubelet does."""
        return TRIES if self.expected is Expected.RETRIED else 1


TRIES = 6
"""Attempts: one unverified, one for each damaged seed, the successful one, and one to spare."""

_DISKS = FailingDisks()

MODES = ("off", "sample", "all")
"""Values of --verify-blobs, which affects large layers only."""

_BROKEN: frozenset[MissReason] = frozenset({MissReason.CUT, MissReason.FAILED, MissReason.SHUNNED})
"""No peer is left: for the body in transfer, for later requests, and for immediate retries."""

_GONE: frozenset[MissReason] = frozenset({MissReason.CLIENT_GONE})
"""containerd ends, or cancels all its requests because one blob of the image is wrong."""

_WITHDRAWN: frozenset[MissReason] = frozenset({MissReason.NOT_FOUND})
"""Each holder has found its content damaged after sending it once, and withdrawn it."""

_UNVERIFIED = "nobody but containerd verifies a large layer, and wrong bytes end its pull"
_PASSED_ON = (
    "a large layer is verified in passing: "
    "its bytes are with containerd when they are found to be wrong"
)

ROWS = (
    Row(name="peer killed", during=(faults.server_killed,)),
    Row(
        name="all peers killed",
        during=(faults.all_killed,),
        misses=_BROKEN | {MissReason.NOT_FOUND},
        is_short=False,
    ),
    Row(name="peer stopped", during=(faults.server_stopped,)),
    Row(name="peer's link down", during=(faults.server_unplugged,)),
    Row(name="peer's packets dropped", during=(faults.server_cut_off,), is_short=False),
    Row(name="peer's connections reset", during=(faults.server_reset,)),
    Row(name="peer trickles", during=(faults.server_trickling,)),
    Row(
        name="peer's containerd restarted",
        during=(faults.server_containerd_restarted,),
        is_short=False,
    ),
    *(
        Row(
            name=f"small layers wrong, verify {mode}",
            before=(faults.small_corrupted,),
            flags={"verify_blobs": mode},
            is_short=mode == "all",
        )
        for mode in MODES
    ),
    *(
        Row(
            name=f"large layer wrong, verify {mode}",
            before=(faults.large_corrupted,),
            flags={"verify_blobs": mode},
            expected=Expected.FAIL if mode == "off" else Expected.RETRIED,
            why=_UNVERIFIED if mode == "off" else _PASSED_ON,
            misses=_GONE if mode == "off" else _BROKEN | _GONE | _WITHDRAWN,
            is_short=mode == "all",
        )
        for mode in MODES
    ),
    Row(name="peer's files cut off before", before=(faults.large_truncated,)),
    Row(
        name="peer's files cut off",
        during=(faults.server_truncated,),
        expected=Expected.RETRIED,
        why="the kernel zeroes what it has queued of a file that is cut off under it, "
        "which no runtime does",
        misses=_BROKEN | _GONE,
        is_short=False,
    ),
    Row(name="peer's files deleted", during=(faults.server_emptied,), is_short=False),
    Row(name="two peers' disks fail", before=(_DISKS.mounted,), during=(_DISKS.failing,)),
    Row(name="peer slow to answer", before=(peer(SLOW),)),
    Row(name="peer's lengths too small", before=(peer(SHORT),)),
    Row(name="peer's lengths too large", before=(peer(LONG),), is_short=False),
    Row(
        name="peer answers 200 to a range",
        before=(peer(WHOLE),),
        during=(faults.honest_server_killed,),
    ),
    Row(name="own node killed", during=(faults.own_killed,)),
    Row(name="own node ended", during=(faults.own_ended,), misses=_BROKEN | {MissReason.NOT_FOUND}),
    Row(
        name="own containerd restarted",
        during=(faults.own_containerd_restarted,),
        expected=Expected.RETRIED,
        why="the client of containerd lost the answer with it, and asks again",
        misses=_GONE,
    ),
    Row(
        name="routers cut off",
        during=(faults.routers_cut_off,),
        misses=frozenset({MissReason.NOT_FOUND}),
        is_short=False,
    ),
    Row(
        name="nobody known",
        before=(faults.nobody_known,),
        misses=frozenset({MissReason.NOT_FOUND}),
        is_short=False,
    ),
    Row(name="registry down", before=(faults.registry_down,), is_short=False),
    Row(name="registry slow", before=(faults.registry_slow,), is_short=False),
    Row(
        name="registry slow, peer killed",
        before=(faults.registry_slow,),
        during=(faults.server_killed,),
    ),
)
