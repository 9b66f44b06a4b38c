"""Bounds on what a peer can make a connection hold: trap 17 of `compat`, which uses it."""

from __future__ import annotations

from typing import Any, cast

import trio
from libp2p.abc import IMuxedConn
from libp2p.stream_muxer.yamux.yamux import YamuxStream

MAX_STREAMS = 128
"""Streams that are open on one connection at a time. A node opens one to announce, and a few that carry questions; with
the window of each, 256 KiB until it is read, a connection can hold 32 MiB that nobody reads."""


class PeerExceedsBound(trio.TooSlowError):
    """A peer sends more than it may. A TooSlowError, and no other error, has py-libp2p close the connection."""


class BoundedStream(YamuxStream):
    """A stream whose peer loses its connection if it sends more than the window that it was given."""

    @property
    def recv_window(self) -> int:
        """Bytes that the peer may still send."""
        return cast("int", self.__dict__["recv_window"])

    @recv_window.setter
    def recv_window(self, value: int) -> None:
        if value < 0:
            raise PeerExceedsBound(f"{-value} bytes more than the window of stream {self.stream_id}")
        self.__dict__["recv_window"] = value


class _Streams(dict[int, YamuxStream]):
    """The streams of one connection: each is bounded from its first byte on, and so is their number."""

    def __setitem__(self, number: int, stream: YamuxStream) -> None:
        if len(self) >= MAX_STREAMS and number not in self:
            raise PeerExceedsBound(f"more than {MAX_STREAMS} streams")
        stream.__class__ = BoundedStream
        super().__setitem__(number, stream)


def bound_connection(connection: IMuxedConn) -> None:
    """Prepare a connection that nobody uses yet."""
    muxed = cast("Any", connection)
    if muxed.streams:
        raise TypeError(f"{connection} has streams already")
    muxed.streams = _Streams()
