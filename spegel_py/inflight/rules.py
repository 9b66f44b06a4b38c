"""The deadlines and bounds of in-flight sharing, the same for coordinators and for participants."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlightRules:
    """Times in seconds unless the text names another unit.

    A *leader* fetches the content upstream, a *follower* gets it from its *parent*.
    """

    leader_heartbeat: float = 1.0
    """Seconds between two heartbeats of a leader: every follower's pull depends on it."""

    leader_lease: float = 4.0
    """Seconds without a heartbeat after which a leader gets no more followers.

    By then three heartbeats were lost, or the leader is dead.
    """

    leader_stall: float = 6.0
    """Seconds without a new byte at a leader after which another node may fetch upstream too.

    containerd's file grows by 1 MiB at a time, so a download above 175 KB/s never stalls. The first
    byte has the same time, for a registry's token and its redirect.
    """

    accused_timeout: float = 1.5
    """Seconds that an accused node has to send a heartbeat before it counts as dead.

    A live node sends one every second, so a false complaint costs it nothing, and a real death is
    believed soon.
    """

    heartbeat: float = 2.0
    """Shortest time in seconds between two heartbeats of a follower."""

    heartbeats_per_second: int = 20
    """Heartbeats per second that a coordinator wants from the followers of one digest.

    Above twice as many followers each sends less often. One heartbeat costs about 2 ms.
    """

    heartbeats_missed: int = 3
    """Heartbeat intervals that a follower may stay silent before its lease ends."""

    complete_ttl: float = 60.0
    """Seconds for which a coordinator believes that a node has the complete content.

    By then peers find that node through the router.
    """

    waiting_ttl: float = 30.0
    """Seconds for which a node without a parent is remembered if it does not ask again."""

    backoff: float = 1.0
    """Seconds between sending one node upstream and sending the next one.

    The time doubles, up to `backoff_max`, with each node that gets nothing. So a registry that
    restarts or refuses is not asked by all nodes within a second.
    """

    backoff_max: float = 8.0
    """Longest back-off in seconds."""

    avoid: float = 10.0
    """Seconds for which a node is not sent to a parent that failed it.

    For a slow parent the time is three times as long.
    """

    busy: float = 2.0
    """Seconds for which nobody is sent to a node that has no free upload slot."""

    ahead: int = 4 * 1024 * 1024
    """Bytes by which a slow parent must be ahead of its follower to be the slow one itself.

    With fewer unsent bytes its own parent is the bottleneck.
    """

    stall: float = 3.0
    """Seconds without a byte from its parent after which a follower asks for another parent.

    This is longer than TCP's first retransmissions.
    """

    stall_per_level: float = 0.25
    """Seconds added to `stall` per level of depth, so that the node next to a fault asks first.

    The nodes below it then get bytes again before they ask, since the repair takes some
    milliseconds. At the greatest depth the deadline is 7 s, well below `max_silence`.
    """

    slow_rate: int = 1024 * 1024
    """Bytes per second below which a parent may be slow, measured over `stall` seconds."""

    takeover_grace: float = 0.5
    """Seconds for which a new coordinator of a digest sends nobody upstream.

    A node becomes coordinator when another node joins or leaves. By the end of this time all
    participants have told it what is in flight.
    """

    margin: float = 0.5
    """Seconds allowed for messages under way, on top of the times that a deadline adds up."""

    max_silence: float = 20.0
    """Seconds without a byte for the runtime after which it is sent upstream.

    containerd would wait longer, but it counts this time towards the limit for the whole pull
    (`image_pull_progress_timeout`, five minutes).
    """

    max_wait: float = 3.0
    """Seconds for which one coordinator may hold back a node that has no byte of the content yet.

    The bound covers one answer or the sum of many. After it the node asks the next coordinator, as
    if the first were silent. A coordinator cannot prove that somebody fetches the content, so a
    false one could hold back each digest that it coordinates.

    A node whose leader waits for a slow registry is not told to wait: it is told to follow, and
    waits for its parent. An honest coordinator's waits are shorter than this: 1.5 s for an accused
    parent, 2 s for a busy one, and 1 s, then 2 s, while the registry refuses the leaders.
    """

    max_waits: int = 2
    """Coordinators that may make a node wait, one after the other, before it goes upstream.

    Two, because where a registry refuses everybody the second coordinator still sends the nodes
    upstream in turn.
    """

    unresponsive: float = 3.0
    """Seconds for which a coordinator that did not answer is asked last."""

    coordinators: int = 3
    """Coordinators that a node asks at most, in the order of the rendezvous hash.

    Without any answer the node goes on as if there were no coordinator.
    """

    answer: float = 1.0
    """Seconds to wait for a coordinator's answer before asking the next one.

    The next coordinator knows nothing yet and would send a second node upstream. An answer takes
    5 ms, and 0.6 s was seen on a starved machine. `answer_per_member` comes on top: when all nodes
    of a large cluster ask at the same moment, each waits for its turn.
    """

    answer_per_member: float = 0.001
    """Seconds added to `answer` for each member of the cluster."""

    crowd_answer: float = 0.1
    """Seconds to wait for a coordinator's answer where holders of the content are known.

    Without an answer the node asks those holders.
    """

    crowd_stall: float = 1.0
    """Seconds without a byte from a parent after which known holders of the content are asked."""

    tree_answer: float = 1.0
    """Seconds to wait for a tree that is only shown to people.

    After it the node shows what it knows itself.
    """

    def answer_within(self, members: int) -> float:
        """Return the seconds to wait for a coordinator's answer in a cluster of `members` nodes."""
        return self.answer + members * self.answer_per_member

    def stand_in(self, members: int) -> float:
        """Return for how many seconds a stand-in for a dead coordinator sends nobody upstream.

        The dead coordinator may have taken the leader's last heartbeat with it. By the end of this
        time the leader has waited in vain for an answer to its next heartbeat and has turned to the
        stand-in. The followers that lost their parent have done the same.
        """
        return self.leader_heartbeat + self.answer_within(members) + self.margin

    def max_wait_among(self, members: int) -> float:
        """Return the seconds for which a coordinator among `members` nodes may hold back a node.

        A stand-in makes everybody wait once, and longer in a large cluster. That wait must fit in,
        or a whole crowd would go upstream.
        """
        return max(self.max_wait, self.stand_in(members))

    def stall_at(self, depth: int) -> float:
        """Return the silent seconds after which a follower at `depth` asks for another parent."""
        return self.stall + depth * self.stall_per_level

    def heartbeat_among(self, nodes: int) -> float:
        """Return the heartbeat interval in seconds for `nodes` participants of one digest."""
        return max(self.heartbeat, nodes / self.heartbeats_per_second)
