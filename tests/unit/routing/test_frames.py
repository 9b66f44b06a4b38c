"""The announce protocol's frames: an encoded frame decodes to itself, other bytes are refused."""

from __future__ import annotations

import base64
import ipaddress
import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.routing.libp2p import frames
from spegel_py.routing.libp2p.frames import (
    Ages,
    Delta,
    Frame,
    FrameError,
    Goodbye,
    Hello,
    Refresh,
    Resync,
    SetPart,
)
from spegel_py.routing.peer_proofs import ToldKey

KEYS = st.lists(st.binary(min_size=32, max_size=32), max_size=20).map(tuple)
HOSTS = st.one_of(st.just(""), st.ip_addresses().map(str))
FRAMES: st.SearchStrategy[Frame] = st.one_of(
    st.builds(
        Hello,
        interval=st.floats(frames.MIN_INTERVAL, frames.MAX_INTERVAL),
        host=HOSTS,
        port=st.integers(1, 65535),
        agent=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=64),
    ),
    st.builds(SetPart, keys=KEYS, first=st.booleans(), last=st.booleans(), complete=st.booleans()),
    st.builds(Delta, added=st.booleans(), keys=KEYS),
    st.builds(Refresh, count=st.integers(0, 2**32 - 1), checksum=st.integers(0, 2**64 - 1)),
    st.just(Goodbye()),
    st.just(Resync()),
    st.builds(
        Ages,
        ages=st.lists(
            st.tuples(st.binary(min_size=32, max_size=32), st.integers(0, 2**32 - 1))
        ).map(tuple),
    ),
)


@given(FRAMES)
def test_a_frame_is_read_back_as_it_was_written(frame: Frame) -> None:
    """Encoding and decoding are inverse, and the length is that of the rest."""
    raw = frames.encode(frame)
    assert frames.frame_length(raw[:4]) == len(raw) - 4
    assert frames.decode(raw[4:]) == frame


def test_a_hello_tells_its_key_and_an_unusable_key_is_ignored() -> None:
    """A later version may tell another form of key; the rest of its hello counts."""
    key = ToldKey(3, bytes(range(32)), 12345.6)
    told = frames.decode(frames.encode(Hello(4.0, "", 5000, http_key=key))[4:])
    assert isinstance(told, Hello)
    assert told.http_key == key
    right = {"hour": 3, "secret": base64.b64encode(bytes(32)).decode(), "clock": 1}
    wrong: list[object] = [
        1,
        "key",
        [],
        {},
        *(right | {"hour": hour} for hour in (-1, 1.5, True, None, 10**300)),
        *(right | {"secret": secret} for secret in ("", "AA==", "é", 1, None, "*" * 44)),
        *(right | {"clock": clock} for clock in (math.nan, math.inf, "1", None, 10**400)),
    ]
    for found in wrong:
        body = json.dumps({"interval": 4, "registry": ":5000", "http_key": found}).encode()
        told = frames.decode(b"\x01" + body)
        assert isinstance(told, Hello)
        assert told.http_key is None, found


@given(st.binary(min_size=1, max_size=300))
def test_garbage_is_a_frame_error_and_nothing_else(raw: bytes) -> None:
    """Any bytes either are a frame or raise FrameError."""
    try:
        frame = frames.decode(raw)
    except FrameError:
        return
    assert frames.decode(frames.encode(frame)[4:]) == frame


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b"null",
        b'{"interval": 4}',
        b'{"interval": "x", "registry": ":5000"}',
        b'{"interval": NaN, "registry": ":5000"}',
        b'{"interval": 0.01, "registry": ":5000"}',
        b'{"interval": 1e9, "registry": ":5000"}',
        b'{"interval": 4, "registry": "5000"}x',
        b'{"interval": 4, "registry": ":0"}',
        b'{"interval": 4, "registry": ":99999"}',
        b'{"interval": 4, "registry": "evil.example:80"}',
        b'{"interval": 1' + b"0" * 400 + b', "registry": ":5000"}',
        b'{"interval": 1' + b"0" * 5000 + b', "registry": ":5000"}',
        b'{"interval": true, "registry": ":5000"}',
        b'{"interval": "4", "registry": ":5000"}',
        b'{"interval": 4, "registry": ":5000", "time": NaN}',
        b'{"interval": 4, "registry": ":5000", "time": 1e999}',
        b'{"interval": 4, "registry": ":5000", "time": 1' + b"0" * 400 + b"}",
        b'{"interval": 4, "registry": ":' + b"9" * 5000 + b'"}',
        b'{"interval": 4, "registry": "[::1%]:5000"}',
        b"[" * 20000,
        b"\xff\xfe",
    ],
)
def test_a_malformed_hello_is_refused(body: bytes) -> None:
    """A hello that is no JSON, lacks a field, or names what is no IP, port or sensible interval is
    a FrameError."""
    with pytest.raises(FrameError):
        frames.decode(b"\x01" + body)


@given(
    st.dictionaries(
        st.sampled_from(["interval", "registry", "agent", "time", "shares"]),
        st.recursive(
            st.none()
            | st.booleans()
            | st.floats()
            | st.integers()
            | st.text()
            | st.integers().map(lambda n: 10 ** (n % 500)),
            lambda inner: st.lists(inner, max_size=2),
        ),
    ).map(lambda fields: json.dumps({"interval": 4, "registry": ":5000"} | fields).encode())
    | st.binary()
)
def test_any_hello_is_read_or_refused(body: bytes) -> None:
    """Any bytes are a hello with printable texts and finite numbers, or a FrameError."""
    try:
        hello = frames.decode(b"\x01" + body)
    except FrameError:
        return
    assert isinstance(hello, Hello)
    assert hello.agent.isascii()
    assert hello.agent.isprintable()
    assert len(hello.agent) <= frames.MAX_AGENT
    assert hello.time is None or math.isfinite(hello.time)
    assert hello.host == "" or ipaddress.ip_address(hello.host)


def test_an_agent_is_kept_as_it_can_be_shown() -> None:
    """A stranger may send control sequences, and long texts; a few plain characters are kept."""
    body = json.dumps(
        {"interval": 4, "registry": ":5000", "agent": "\x1b]0;x\x07 \ud800" + "a" * 1000}
    ).encode()
    hello = frames.decode(b"\x01" + body)
    assert isinstance(hello, Hello)
    assert hello.agent == "?]0;x? ?" + "a" * (frames.MAX_AGENT - 8)


@pytest.mark.parametrize("zone", ["eth0", "a" * 64, "a..b", "\x00", "\ud800", "b" * 100_000])
def test_a_zone_means_nothing_on_another_host(zone: str) -> None:
    """A peer that names such an address is asked at the address of its connection."""
    body = json.dumps({"interval": 4, "registry": f"[fe80::1%{zone}]:5000"}).encode()
    hello = frames.decode(b"\x01" + body)
    assert isinstance(hello, Hello)
    assert (hello.host, hello.port) == ("", 5000)


def test_a_hello_may_carry_more_than_is_known() -> None:
    """Members of a later version are ignored."""
    frame = frames.decode(b'\x01{"interval": 4, "registry": "[::1]:5000", "later": {"x": 1}}')
    assert frame == Hello(4.0, "::1", 5000, "")


@pytest.mark.parametrize(
    ("length", "reason"), [(0, "oversized-frame"), (frames.MAX_FRAME + 1, "oversized-frame")]
)
def test_a_length_out_of_bounds_is_refused_before_anything_is_read(
    length: int, reason: str
) -> None:
    """An empty or oversized frame is named as such from its head alone."""
    with pytest.raises(FrameError) as caught:
        frames.frame_length(struct.pack(">I", length))
    assert caught.value.reason == reason


@given(st.integers(0, 3 * frames.KEYS_PER_FRAME))
def test_a_set_goes_out_in_parts_that_fit(count: int) -> None:
    """All keys go out once, in frames within the bound; the first and the last part are marked."""
    keys = [number.to_bytes(32, "big") for number in range(count)]
    parts = list(frames.set_parts(keys, complete=True))
    assert [key for part in parts for key in part.keys] == keys
    assert [part.first for part in parts] == [True] + [False] * (len(parts) - 1)
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert all(len(frames.encode(part)) <= frames.MAX_FRAME for part in parts)


def test_a_hello_carries_the_clock_of_its_sender() -> None:
    """The time is read back; a hello without a time has none."""
    assert decode_hello(time=1234.5).time == 1234.5
    assert decode_hello(time=None).time is None


def decode_hello(time: float | None) -> Hello:
    frame = frames.decode(frames.encode(Hello(4.0, "", 5000, "x", time))[4:])
    assert isinstance(frame, Hello)
    return frame


@pytest.mark.parametrize(
    ("zone", "expected"),
    [("eu-1a", "eu-1a"), ("", ""), (None, ""), (7, ""), ("a" * 64, ""), ("a b", ""), ("\x1b", "")],
)
def test_a_hello_names_the_zone_of_its_sender(zone: object, expected: str) -> None:
    """A hello of an older version names none, and an unusable name is none."""
    body = json.dumps({"interval": 4, "registry": ":5000", "zone": zone}).encode()
    hello = frames.decode(b"\x01" + body)
    assert isinstance(hello, Hello)
    assert hello.zone == expected
    assert frames.decode(frames.encode(hello)[4:]) == hello
    assert (b"zone" in frames.encode(hello)) == bool(expected)
