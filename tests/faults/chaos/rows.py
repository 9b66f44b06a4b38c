"""The rows of the suite: what breaks, when, and why a row may end otherwise than well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from spegel_py.outcomes import MissReason
from tests.faults.chaos import content, links, processes
from tests.faults.chaos.content import Disks
from tests.faults.chaos.misbehaving import LONG, SHORT, SLOW, WHOLE, peer
from tests.faults.chaos.scene import Fault


class Expected(Enum):
    """How the pulls of a row end."""

    SUCCEED = "every pull succeeds at its first try, in time"
    RETRIED = "every pull succeeds when the runtime tries again, each try in time"
    FAIL = "every pull fails, in time, and leaves no wrong content"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kind of fault; `before` is broken from the start of the pull on, `during` breaks in the middle of it."""

    name: str
    before: tuple[Fault, ...] = ()
    during: tuple[Fault, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)
    """Flags of all nodes."""
    expected: Expected = Expected.SUCCEED
    why: str = ""
    """Why nothing better is expected."""
    misses: frozenset[MissReason] = frozenset()
    """The reasons that a miss may have; none where somebody good is left, who answers everything in the end."""
    is_short: bool = True
    """Whether the short form has it."""

    @property
    def tries(self) -> int:
        """Return how often a pull is tried, as a kubelet does it."""
        return TRIES if self.expected is Expected.RETRIED else 1


TRIES = 6
"""One that nobody verifies, one for each seed that is found out then, the good one, and one to spare."""

_DISKS = Disks()

MODES = ("off", "sample", "all")
"""Of --verify-blobs, which is about large layers only."""

_BROKEN: frozenset[MissReason] = frozenset({MissReason.CUT, MissReason.FAILED, MissReason.SHUNNED})
"""Of what nobody can give: the body under way, what is asked for after it, and what is asked for again at once."""

_GONE: frozenset[MissReason] = frozenset({MissReason.CLIENT_GONE})
"""Of containerd, which leaves all its requests when one blob of the image is wrong, or when it ends."""

_WITHDRAWN: frozenset[MissReason] = frozenset({MissReason.NOT_FOUND})
"""Of what its holders have found to be damaged, each after sending it once."""

_UNVERIFIED = "nobody but containerd verifies a large layer, and wrong bytes end its pull"
_PASSED_ON = "a large layer is verified in passing: its bytes are with containerd when they are found to be wrong"

ROWS = (
    Row(name="peer killed", during=(processes.server_killed,)),
    Row(
        name="all peers killed",
        during=(processes.all_killed,),
        misses=_BROKEN | {MissReason.NOT_FOUND},
        is_short=False,
    ),
    Row(name="peer stopped", during=(processes.server_stopped,)),
    Row(name="peer's link down", during=(links.server_unplugged,)),
    Row(name="peer's packets dropped", during=(links.server_cut_off,), is_short=False),
    Row(name="peer's connections reset", during=(links.server_reset,)),
    Row(name="peer trickles", during=(links.server_trickling,)),
    Row(
        name="peer's containerd restarted",
        during=(processes.server_s_containerd_restarted,),
        is_short=False,
    ),
    *(
        Row(
            name=f"small layers wrong, verify {mode}",
            before=(content.small_spoiled,),
            flags={"verify_blobs": mode},
            is_short=mode == "all",
        )
        for mode in MODES
    ),
    *(
        Row(
            name=f"large layer wrong, verify {mode}",
            before=(content.large_spoiled,),
            flags={"verify_blobs": mode},
            expected=Expected.FAIL if mode == "off" else Expected.RETRIED,
            why=_UNVERIFIED if mode == "off" else _PASSED_ON,
            misses=_GONE if mode == "off" else _BROKEN | _GONE | _WITHDRAWN,
            is_short=mode == "all",
        )
        for mode in MODES
    ),
    Row(name="peer's files cut off before", before=(content.large_truncated,)),
    Row(
        name="peer's files cut off",
        during=(content.server_truncated,),
        expected=Expected.RETRIED,
        why="the kernel zeroes what it has queued of a file that is cut off under it, which no runtime does",
        misses=_BROKEN | _GONE,
        is_short=False,
    ),
    Row(name="peer's files deleted", during=(content.server_emptied,), is_short=False),
    Row(name="two peers' disks fail", before=(_DISKS.mounted,), during=(_DISKS.failing,)),
    Row(name="peer slow to answer", before=(peer(SLOW),)),
    Row(name="peer's lengths too small", before=(peer(SHORT),)),
    Row(name="peer's lengths too large", before=(peer(LONG),), is_short=False),
    Row(
        name="peer answers 200 to a range",
        before=(peer(WHOLE),),
        during=(processes.honest_server_killed,),
    ),
    Row(name="own node killed", during=(processes.own_killed,)),
    Row(
        name="own node ended",
        during=(processes.own_ended,),
        misses=_BROKEN | {MissReason.NOT_FOUND},
    ),
    Row(
        name="own containerd restarted",
        during=(processes.own_containerd_restarted,),
        expected=Expected.RETRIED,
        why="who asked containerd lost the answer with it, and asks again",
        misses=_GONE,
    ),
    Row(
        name="routers cut off",
        during=(links.routers_cut_off,),
        misses=frozenset({MissReason.NOT_FOUND}),
        is_short=False,
    ),
    Row(
        name="nobody known",
        before=(links.nobody_known,),
        misses=frozenset({MissReason.NOT_FOUND}),
        is_short=False,
    ),
    Row(name="registry down", before=(links.registry_down,), is_short=False),
    Row(name="registry slow", before=(links.registry_slow,), is_short=False),
    Row(
        name="registry slow, peer killed",
        before=(links.registry_slow,),
        during=(processes.server_killed,),
    ),
)
