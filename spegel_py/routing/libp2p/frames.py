"""The frames of the announce protocol, `/spegel-py/announce/1.0.0`: encoding and decoding. Pure.

A frame is a length (u32, big endian, of the rest), a kind (u8) and a body:

    HELLO    JSON object: interval (s), registry ("host:port", host may be empty), agent, time (the
             sender's clock, Unix time), shares (it takes part in in-flight sharing), pings (it
             watches its peers by pings), floor (it answers requests to keep replicas; the
             replicas of each image that it wants, 0 for none), zone (the zone that it is in),
             tls (its registry can be asked by TLS), proof (that it knows the cluster's password:
             see `identity`), http_key (the key for HTTP requests to the sender: see
             `peer_proofs`); unknown members are ignored
    SET      flags (u8: 1 first part, 2 last part, 4 complete), then 32-byte keys: the sender's set,
             in parts
    ADD      32-byte keys that came
    REMOVE   32-byte keys that went
    REFRESH  count (u32) and checksum (u64) of all keys sent so far: "I live, and you should hold
             these"
    GOODBYE  empty: the sender leaves in good order
    RESYNC   empty, the only frame from receiver to sender: "send your set again"
    AGES     32-byte keys of sent tags, each with a u32: seconds since the sender pulled the tag

A frame never contains the sender's identity: it is the peer that the Noise handshake authenticated.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from spegel_py.routing.libp2p.keys import HASH_SIZE
from spegel_py.routing.peer_proofs import SECRET_SIZE, ToldKey
from spegel_py.tools.addresses import join_host_port
from spegel_py.tools.zones import is_zone

PROTOCOL = "/spegel-py/announce/1.0.0"
KEYS_PER_FRAME = 1024
"""Keys in one part of a set: 32 KiB, of which a hundred may be on their way to slow peers."""
MAX_FRAME = 300 * 1024
"""Largest frame in bytes: older nodes send the ages of 8,192 keys at once, which take 288 KiB.
Its keys take three times as much memory while they are decoded."""
MIN_INTERVAL, MAX_INTERVAL = 0.5, 3600.0
"""Bounds of an announced interval in seconds. Below, a peer could not keep up; above, its death
would show too late."""
MAX_FLOOR = 1000
"""Replicas of an image that a peer may want."""
MAX_HOUR = 1 << 40
"""Hours since its start that a peer may tell."""
MAX_AGENT = 64
"""Characters kept of a peer's agent."""

_LENGTH = struct.Struct(">I")
_REFRESH = struct.Struct(">IQ")
_AGE = struct.Struct(f">{HASH_SIZE}sI")
_OLDEST = (1 << 32) - 1
_HELLO, _SET, _ADD, _REMOVE, _REFRESHED, _GOODBYE, _RESYNC, _AGES = range(1, 9)
_FIRST, _LAST, _COMPLETE = 1, 2, 4


class FrameError(ValueError):
    """The bytes are no frame of this protocol; `reason` is the label of a counter."""

    def __init__(self, text: str, *, reason: str = "malformed-frame") -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Hello:
    """The sender's announce interval (seconds) and the address of its registry.

    An empty host stands for the address that the sender is connected from. `time` is the sender's
    clock in Unix time, if it gives it. `proof` is in base64, empty if the sender has no password.
    `floor` is None if the sender answers no requests about replicas. `zone` is empty if the sender
    names none. `http_key` is None if the sender has no proofs of HTTP requests.
    """

    interval: float
    host: str
    port: int
    agent: str = ""
    time: float | None = field(default=None, compare=False)
    shares: bool = False
    proof: str = field(default="", compare=False, repr=False)
    pings: bool = False
    floor: int | None = None
    zone: str = ""
    tls: bool = False
    http_key: ToldKey | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class SetPart:
    """A part of the sender's set."""

    keys: tuple[bytes, ...]
    first: bool
    last: bool
    complete: bool


@dataclass(frozen=True, slots=True)
class Delta:
    """Keys that came (`added`) or went."""

    added: bool
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Refresh:
    """The count and checksum of the keys that the receiver should hold."""

    count: int
    checksum: int


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The sender leaves in good order."""


@dataclass(frozen=True, slots=True)
class Resync:
    """The receiver wants the whole set again."""


@dataclass(frozen=True, slots=True)
class Ages:
    """Seconds since the sender pulled some of its tags; keys that were not sent are ignored."""

    ages: tuple[tuple[bytes, int], ...]


Frame = Hello | SetPart | Delta | Refresh | Goodbye | Resync | Ages


_NAMES = {
    Hello: "hello",
    SetPart: "set",
    Refresh: "refresh",
    Goodbye: "goodbye",
    Resync: "resync",
    Ages: "ages",
}


def name(frame: Frame) -> str:
    """Return the kind of a frame, as metrics name it."""
    if isinstance(frame, Delta):
        return "add" if frame.added else "remove"
    return _NAMES[type(frame)]


def encode(frame: Frame) -> bytes:
    """Return the frame's bytes, length included."""
    kind, body = _encode(frame)
    return _LENGTH.pack(1 + len(body)) + bytes([kind]) + body


def _encode(frame: Frame) -> tuple[int, bytes]:
    match frame:
        case Hello():
            return _HELLO, json.dumps(_members(frame)).encode()
        case SetPart(keys, first, last, complete):
            flags = _FIRST * first | _LAST * last | _COMPLETE * complete
            return _SET, bytes([flags]) + b"".join(keys)
        case Delta(added, keys):
            return _ADD if added else _REMOVE, b"".join(keys)
        case Refresh(count, check):
            return _REFRESHED, _REFRESH.pack(count, check)
        case Goodbye():
            return _GOODBYE, b""
        case Resync():
            return _RESYNC, b""
        case Ages(ages):
            return _AGES, b"".join(_AGE.pack(key, min(age, _OLDEST)) for key, age in ages)


def _members(hello: Hello) -> dict[str, object]:
    """Return the JSON object of a hello; members that say nothing are left out."""
    members: dict[str, object] = {
        "interval": hello.interval,
        "registry": join_host_port(hello.host, hello.port),
        "agent": hello.agent,
        "time": hello.time,
        "shares": hello.shares,
        "pings": hello.pings,
    }
    if hello.floor is not None:
        members["floor"] = hello.floor
    if hello.zone:
        members["zone"] = hello.zone
    if hello.tls:
        members["tls"] = True
    if hello.proof:
        members["proof"] = hello.proof
    if (key := hello.http_key) is not None:
        secret = base64.b64encode(key.secret).decode()
        members["http_key"] = {"hour": key.hour, "secret": secret, "clock": key.clock}
    return members


def frame_length(head: bytes) -> int:
    """Return the length in a 4-byte head. Raises FrameError if it is 0 or too long."""
    (length,) = _LENGTH.unpack(head)
    if not 1 <= length <= MAX_FRAME:
        raise FrameError(f"a frame of {length} bytes", reason="oversized-frame")
    return int(length)


def decode(payload: bytes) -> Frame:
    """Return the frame in `payload` (kind and body, without the length). Raises FrameError."""
    kind, body = payload[0], payload[1:]
    match kind:
        case 1:
            return _decode_hello(body)
        case 2:
            return _decode_set(body)
        case 3 | 4:
            return Delta(kind == _ADD, _keys(body))
        case 5:
            if len(body) != _REFRESH.size:
                raise FrameError("a refresh of a wrong size")
            return Refresh(*_REFRESH.unpack(body))
        case 6 | 7:
            if body:
                raise FrameError("a body where none belongs")
            return Goodbye() if kind == _GOODBYE else Resync()
        case 8:
            if len(body) % _AGE.size:
                raise FrameError("ages of a wrong size")
            return Ages(tuple(_AGE.iter_unpack(body)))
    raise FrameError(f"unknown kind {kind}")


def set_parts(keys: Sequence[bytes], *, complete: bool) -> Iterator[SetPart]:
    """Yield a whole set in parts; an empty set is one empty part."""
    for start in range(0, max(1, len(keys)), KEYS_PER_FRAME):
        part = tuple(keys[start : start + KEYS_PER_FRAME])
        yield SetPart(part, start == 0, start + KEYS_PER_FRAME >= len(keys), complete)


def _keys(body: bytes) -> tuple[bytes, ...]:
    if len(body) % HASH_SIZE:
        raise FrameError("keys that are not 32 bytes each")
    return tuple(body[i : i + HASH_SIZE] for i in range(0, len(body), HASH_SIZE))


def _decode_set(body: bytes) -> SetPart:
    if not body or body[0] & ~(_FIRST | _LAST | _COMPLETE):
        raise FrameError("a set with unknown flags")
    flags = body[0]
    return SetPart(
        _keys(body[1:]), bool(flags & _FIRST), bool(flags & _LAST), bool(flags & _COMPLETE)
    )


def _decode_hello(body: bytes) -> Hello:
    try:
        fields = json.loads(body)
        host, _, port = str(fields["registry"]).rpartition(":")
        hello = Hello(
            interval=_finite(fields["interval"]),
            host=_address(host.strip("[]")) if host else "",
            port=int(port),
            agent=_printable(str(fields.get("agent", ""))),
            time=None if fields.get("time") is None else _finite(fields["time"]),
            shares=fields.get("shares") is True,
            pings=fields.get("pings") is True,
            proof=_printable(str(fields.get("proof", ""))),
            floor=_floor(fields.get("floor")),
            zone=_zone(fields.get("zone")),
            tls=fields.get("tls") is True,
            http_key=_http_key(fields.get("http_key")),
        )
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
        OverflowError,
    ) as error:
        raise FrameError(f"a malformed hello: {error}"[:200]) from error
    if not MIN_INTERVAL <= hello.interval <= MAX_INTERVAL:
        raise FrameError(f"an interval of {hello.interval} s")
    if not 1 <= hello.port <= 65535:
        raise FrameError(f"a registry port {hello.port}")
    return hello


def _floor(value: object) -> int | None:
    """Return the floor in a hello; None without a usable one."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= MAX_FLOOR else None


def _zone(value: object) -> str:
    """Return the zone in a hello; empty without a usable one."""
    return value if isinstance(value, str) and is_zone(value) else ""


def _http_key(value: object) -> ToldKey | None:
    """Return the key in a hello; None without a usable one."""
    if not isinstance(value, dict):
        return None
    hour, secret = value.get("hour"), value.get("secret")
    if not isinstance(hour, int) or isinstance(hour, bool) or not 0 <= hour <= MAX_HOUR:
        return None
    try:
        key = base64.b64decode(secret, validate=True) if isinstance(secret, str) else b""
        clock = _finite(value.get("clock"))
    except (binascii.Error, ValueError, OverflowError):
        return None
    return ToldKey(hour, key, clock) if len(key) == SECRET_SIZE else None


def _finite(value: object) -> float:
    """Return a finite number. Raises ValueError, OverflowError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number is wanted")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is no finite number")
    return number


def _address(text: str) -> str:
    """Return an IP address, or "" for an address with a zone, which is valid on its own host only.

    Raises ValueError.
    """
    address = ipaddress.ip_address(text)
    return "" if getattr(address, "scope_id", None) is not None else str(address)


def _printable(text: str) -> str:
    """Return at most MAX_AGENT characters of a peer's text, as printable ASCII."""
    return "".join(each if " " <= each <= "~" else "?" for each in text[:MAX_AGENT])
