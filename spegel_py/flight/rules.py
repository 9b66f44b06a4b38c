"""How long everything lasts while a digest is shared in flight: the steward and those who ask it go by the same."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Seconds, but for what says otherwise."""

    lead_renew: float = 1.0
    """Between two words of who fetches upstream, about how far it is: everybody's pull hangs on it."""

    lead_lease: float = 4.0
    """Without a word, after which nobody is sent to it any more: three were lost, or it is."""

    lead_stall: float = 6.0
    """Without a byte more, after which another may fetch too. containerd's file grows by 1 MiB at a time, so what comes
    faster than 175 KB/s never stalls; the first byte has as long, for a registry's token and its redirect."""

    notice: float = 1.5
    """Within which a node must speak that others complain of, or it is taken for gone: it says something every second,
    so a lie costs it nothing, and its death is believed soon."""

    renew: float = 2.0
    """Between two words of who follows, at least."""

    notes_per_second: int = 20
    """Words of followers of one digest that its steward takes in a second: above twice as many of them each speaks less
    often. One costs about 2 ms."""

    leases: int = 3
    """Of these intervals a follower may be silent."""

    hold: float = 60.0
    """For which it is believed that a node has the content: by then peers find it through the router."""

    waiting: float = 30.0
    """For which a node is remembered that has no source, and does not ask again."""

    backoff: float = 1.0
    """After one node was sent upstream, until the next is; doubled up to `backoff_most` with each of them that gets
    nothing, so that a registry that restarts or refuses is not asked by all in turn within a second."""

    backoff_most: float = 8.0

    shun: float = 10.0
    """For which a node is not sent to a source that did not serve it, and three times as long to a slow one."""

    busy: float = 2.0
    """For which nobody is sent to a node that said it has no upload slot left."""

    ahead: int = 4 * 1024 * 1024
    """Bytes that a source must have beyond what it gave for it to be the slow one, not what it waits for itself."""

    stall: float = 3.0
    """Without a byte from a source, after which a follower asks for another: longer than TCP's first
    retransmissions."""

    stall_each: float = 0.25
    """More of that for each step of its depth, so that who is nearest to the fault asks first: then those below it get
    bytes again before they ask, since that takes some milliseconds. At the greatest depth it is 7 s, well within the
    silence that a runtime is left in."""

    floor: int = 1024 * 1024
    """Bytes per second below which a source may be slow, over `stall` seconds."""

    grace: float = 0.5
    """After a node became a digest's steward by another's coming or going, until it sends anybody upstream: by then it
    was told what is in flight."""

    margin: float = 0.5
    """More than the others of these times taken together, for what is on its way."""

    silence: float = 20.0
    """Without a byte for the runtime, after which it goes its own way. It would wait longer, but counts the time
    towards its limit for the whole pull (`image_pull_progress_timeout`, five minutes)."""

    held_back: float = 3.0
    """Seconds that one steward may make a node wait for content of which no byte has come yet, by
    one answer or by many. Then the next steward is asked, as if the first were silent.

    A steward cannot prove that somebody fetches the content, so a false one could hold back each
    digest that falls to it. A node whose leader waits for a slow registry is not told to wait: it
    is told to follow, and waits for its source. A steward's own waits are shorter than this: 1.5 s
    for a source on notice, 2 s for a busy one, 1 s and then 2 s while the registry refuses those
    that were sent there."""

    holders_back: int = 2
    """Stewards that may make a node wait, one after the other; then it goes its own way. Two,
    because where a registry refuses everybody the second one still sends the nodes there in turn."""

    deaf: float = 3.0
    """For which a steward that did not answer is asked last."""

    asked: int = 3
    """Stewards asked at most, one after the other, the next in the hash where one does not answer; then it is as if
    there were none."""

    answer: float = 1.0
    """For a steward's answer, until the next one is asked, which knows nothing and sends a second node upstream.

    It takes 5 ms, and 0.6 s was seen on a starved machine. With `answer_each` for each member more: when all of a large
    cluster ask at the same moment, the last waits for the others."""

    answer_each: float = 0.001

    at_once: float = 0.1
    """For a steward's answer where others that hold the content are known: then they are asked."""

    stall_lined_up: float = 1.0
    """Without a byte from a source, after which those are asked that hold the content."""

    look: float = 1.0
    """For a steward's answer to who only looks; then what the node knows by itself is shown."""

    def answer_within(self, members: int) -> float:
        """Return for how many seconds a steward among so many members is waited for."""
        return self.answer + members * self.answer_each

    def stand_in(self, members: int) -> float:
        """Return for how many seconds a node that is asked in a steward's place sends nobody upstream.

        By then the leader, whose last word the steward may have taken with it, has waited for an answer to its next one
        in vain and turned to the stand-in, and so have those that lost their source.
        """
        return self.lead_renew + self.answer_within(members) + self.margin

    def held_back_at_most(self, members: int) -> float:
        """Return the seconds that one steward among so many members may make a node wait.

        A node that stands in for another steward makes everybody wait once, longer in a large
        cluster: that wait has to fit in, or a whole crowd would go upstream.
        """
        return max(self.held_back, self.stand_in(members))

    def stall_at(self, depth: int) -> float:
        """Return after how many silent seconds a follower at this depth asks for another source."""
        return self.stall + depth * self.stall_each

    def renew_of(self, nodes: int) -> float:
        """Return how often each of so many nodes is to say what it does."""
        return max(self.renew, nodes / self.notes_per_second)
