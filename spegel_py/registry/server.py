"""Serves an application on an address as operators write it, or fails with one clear line."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from spegel_py.errors import ConfigError
from spegel_py.registry.connection import Connection, TlsContext
from spegel_py.registry.connection_table import ConnectionLimits, ConnectionTable
from spegel_py.tools.addresses import split_host_port
from spegel_py.tools.listeners import explain_listening

BACKLOG = 1024
"""Connections that the kernel queues: a node that restarts pulls tens of images at once."""

KEEPALIVE = 75.0
"""Seconds that an idle connection is kept between two requests: longer than our client does."""

MAX_LINE, MAX_HEADERS, MAX_FIELD = 4096, 64, 4096
"""Bytes of a request line, number of header fields, and bytes of one field. Runtimes send a line of
500 bytes and ten fields. An incomplete head is kept until its time is over, and there may be many
incomplete heads."""

LINGERING = 2.0
"""Seconds in which a refused body may still arrive, so that the connection stays usable."""

DRAIN = 8.0
"""Seconds that open transfers get at the end. The runtime resumes a transfer that is cut then at
another node. With goodbyes and closing, a node has ended 10 s after SIGTERM."""

UNACKNOWLEDGED = 60_000
"""Milliseconds for which the kernel tries to deliver bytes to a client (TCP_USER_TIMEOUT). It ends
connections whose last bytes a stopped client never reads. No deadline of ours sees these."""


class _Server(web.Server):
    def __init__(
        self, *args: Any, connections: ConnectionTable, tls: TlsContext | None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._counted = connections
        self._tls = tls

    def __call__(self) -> Connection:
        return Connection(self, self._counted, tls=self._tls, loop=self._loop, **self._kwargs)


class _Runner(web.AppRunner):
    def __init__(
        self,
        app: web.Application,
        connections: ConnectionTable,
        tls: TlsContext | None,
        **options: Any,
    ) -> None:
        super().__init__(app, **options)
        self._counted = connections
        self._tls = tls

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            made.request_handler,
            connections=self._counted,
            tls=self._tls,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,
            **made._kwargs,
        )


@asynccontextmanager
async def serve(
    app: web.Application,
    address: str,
    *,
    drain: float = DRAIN,
    limits: ConnectionLimits | None = None,
    tls: TlsContext | None = None,
) -> AsyncIterator[int]:
    """Serve `app` on an address, and give the bound port.

    The address is `host:port`, `[v6]:port`, or `:port` for all addresses, v4 and v6.
    It accepts connections up to the `limits`. At the end it accepts no more connections, and open
    transfers get `drain` seconds to finish. With `tls`, clients may use TLS or not. Raises
    ConfigError.
    """
    host, port = parse_address(address)
    listener = _listen(address, host, port)
    runner = _Runner(
        app,
        ConnectionTable(limits),
        tls,
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=KEEPALIVE,
        lingering_time=LINGERING,
        auto_decompress=False,  # a refused body need not be decompressed
        max_line_size=MAX_LINE,
        max_headers=MAX_HEADERS,
        max_field_size=MAX_FIELD,
        shutdown_timeout=drain
        / 2,  # aiohttp spends it twice: waiting for handlers, then for their tasks
    )
    try:
        await runner.setup()
        await web.SockSite(runner, listener, backlog=BACKLOG).start()
        yield int(listener.getsockname()[1])
    finally:
        await runner.cleanup()
        listener.close()


def parse_address(address: str) -> tuple[str, int]:
    """Return host ("" for all addresses) and port of `host:port`. Raises ConfigError."""
    try:
        return split_host_port(address)
    except ValueError:
        raise ConfigError(
            f"{address!r} is not an address to listen on: write host:port or :port, "
            "and an IPv6 address in brackets"
        ) from None


def _listen(address: str, host: str, port: int) -> socket.socket:
    try:
        listener = _dual_stack(port) if host in ("", "::") else _bound(host, port)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {address}: {explain_listening(error, port)}"
        ) from error
    listener.setsockopt(
        socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED
    )  # accepted ones inherit it
    return listener


def _dual_stack(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG
        )
    return socket.create_server(("0.0.0.0", port), backlog=BACKLOG)  # noqa: S104 - asked for


def _bound(host: str, port: int) -> socket.socket:
    """Listen on an address of this machine, or on the first address of a name."""
    family, _, _, _, where = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return socket.create_server(where[:2], family=family, backlog=BACKLOG)
