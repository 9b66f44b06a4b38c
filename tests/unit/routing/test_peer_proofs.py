"""Proofs between peers: both ends agree, and whatever is changed on the way is noticed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.routing.peer_proofs import (
    ASKED,
    BELIEVED,
    KEPT_HOURS,
    KEY_SECONDS,
    PROOF_HEADER,
    WINDOW,
    NodeSecret,
    PeerKey,
    ProofInvalid,
    ProofResult,
    RequestProof,
)

ASKER = "12D3KooWAsker"
TARGET = "/v2/app/blobs/sha256:00?ns=r.io"
WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=20)


class Ends:
    """An answering node, and the key that it told a peer whose clock is far from its own."""

    def __init__(self) -> None:
        self.now = 7.0
        self.secret = NodeSecret(b"s" * 32, clock=lambda: self.now)
        self.key = self.told()

    def told(self) -> PeerKey:
        return PeerKey.told(self.secret.tell(ASKER), now=self.now + 1e6)

    def prove(self, method: str = "GET", target: str = TARGET, **headers: str) -> RequestProof:
        return self.key.prove(
            ASKER, method=method, target=target, headers=headers, now=self.now + 1e6
        )

    def check(
        self, header: str, method: str = "GET", target: str = TARGET, **headers: str
    ) -> RequestProof:
        return self.secret.check(header, method=method, target=target, headers=headers)

    def refusal(self, header: str, **parts: str) -> ProofResult:
        with pytest.raises(ProofInvalid) as error:
            self.check(header, **parts)
        return error.value.result


@given(
    method=st.sampled_from(["GET", "HEAD"]),
    target=WORDS,
    headers=st.dictionaries(st.sampled_from(ASKED), WORDS),
)
def test_both_ends_have_the_same_proof(method: str, target: str, headers: dict[str, str]) -> None:
    """The answering node learns the peer's id, and both ends make the same proof of the answer."""
    ends = Ends()
    sent = ends.prove(method, target, **headers)
    received = ends.check(sent.header, method, target, **headers)
    assert received == sent
    assert received.peer == ASKER
    answer = {"Content-Length": "7", PROOF_HEADER: received.answer(200, {"Content-Length": "7"})}
    assert sent.is_right(200, answer)


@given(
    st.sampled_from(["method", "target", *ASKED]),
    st.dictionaries(st.sampled_from(ASKED), WORDS),
    WORDS.filter(bool),
)
def test_a_changed_request_is_refused(part: str, headers: dict[str, str], more: str) -> None:
    """No part that the proof covers can be changed on the way."""
    ends = Ends()
    header = ends.prove(**headers).header
    parts = {"method": "GET", "target": TARGET, **headers}
    parts[part] = parts.get(part, "") + more
    assert ends.refusal(header, **parts) is ProofResult.WRONG


@given(st.integers(0, 5), st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40))
def test_a_changed_proof_is_refused(place: int, text: str) -> None:
    """Nobody can put another peer, hour, time or code into a proof."""
    ends = Ends()
    fields = ends.prove().header.split(";")
    changed = ";".join([*fields[:place], text, *fields[place + 1 :]])
    if fields[place] != text:
        assert ends.refusal(changed) in (ProofResult.WRONG, ProofResult.LATE)


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_is_refused_and_breaks_nothing(text: str) -> None:
    ends = Ends()
    assert ends.refusal(text) in (ProofResult.WRONG, ProofResult.LATE)
    assert ends.check(ends.prove(target=text).header, target=text).peer == ASKER


@given(
    st.integers(100, 599),
    st.dictionaries(st.sampled_from(BELIEVED), WORDS),
    st.sampled_from(["status", *BELIEVED]),
    WORDS.filter(bool),
)
def test_a_changed_answer_is_noticed(
    status: int, headers: dict[str, str], part: str, more: str
) -> None:
    """No status and no believed header can be changed, added or taken away on the way."""
    proof = Ends().prove()
    signed = {**headers, PROOF_HEADER: proof.answer(status, headers)}
    assert proof.is_right(status, signed)
    if part == "status":
        assert not proof.is_right(status + 1, signed)
        return
    assert not proof.is_right(status, {**signed, part: headers.get(part, "") + more})
    if headers.get(part):
        assert not proof.is_right(status, {k: v for k, v in signed.items() if k != part})


@pytest.mark.parametrize("text", [None, "", "1;", "2;00", "é", "\udc80"])
def test_an_answer_without_its_proof_is_noticed(text: str | None) -> None:
    headers = {} if text is None else {PROOF_HEADER: text}
    assert not Ends().prove().is_right(200, headers)


def test_an_answer_belongs_to_one_request() -> None:
    """The answer to an earlier, equal request is none to this one."""
    ends = Ends()
    earlier, later = ends.prove(), ends.prove()
    assert not later.is_right(200, {PROOF_HEADER: earlier.answer(200, {})})


def test_a_request_is_good_for_a_minute() -> None:
    """Somebody who repeats it later is refused; it is not good ahead of its time either."""
    ends = Ends()
    ends.now = 500.0
    header = ends.prove().header
    ends.now += WINDOW
    assert ends.check(header).peer == ASKER
    ends.now += 1
    assert ends.refusal(header) is ProofResult.LATE
    ends.now -= 2 * WINDOW + 2
    assert ends.refusal(header) is ProofResult.LATE


def test_a_key_is_good_for_two_more_hours() -> None:
    """A peer that hears of the next key late goes on; one that has an old key does not."""
    ends = Ends()
    for _ in range(KEPT_HOURS):
        ends.now += KEY_SECONDS
        assert ends.check(ends.prove().header).hour == 0
    ends.now += KEY_SECONDS
    assert ends.refusal(ends.prove().header) is ProofResult.LATE
    ends.key = ends.told()
    assert ends.check(ends.prove().header).hour == KEPT_HOURS + 1


def test_a_key_is_for_one_peer_one_hour_and_one_life_of_the_node() -> None:
    """A peer cannot ask in another's name; after a restart of the node no key is right."""
    ends = Ends()
    header = ends.prove().header
    assert ends.refusal(header.replace(ASKER, "12D3KooWOther")) is ProofResult.WRONG
    other = ends.secret.tell("12D3KooWOther")
    ends.key = replace(ends.key, secret=other.secret)
    assert ends.refusal(ends.prove().header) is ProofResult.WRONG
    ends.key = ends.told()
    ends.secret = NodeSecret(clock=lambda: ends.now)
    ends.now += 7.0
    assert ends.refusal(ends.prove().header) is ProofResult.WRONG


def test_keys_are_not_printed() -> None:
    ends = Ends()
    told = ends.secret.tell(ASKER)
    for each in (ends.secret, told, ends.key, ends.prove()):
        assert told.secret.hex() not in repr(each)
        assert repr(told.secret) not in repr(each)
