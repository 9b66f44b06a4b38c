"""Finding first peers: a static list, a DNS name, or another node's `/id` over HTTP.

A source that is away does not fail the start: `Joining` asks it again. It also dials lost peers.
Each lost peer is redialled ever less often by its own task (`discovery`). That alone would let two
halves of a cluster meet only minutes after their partition has healed. So a few random lost peers
are dialled every few seconds as well: a single answer leads to all members.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import aiohttp
import structlog
from aiohttp import web

from spegel_py.errors import ConfigError
from spegel_py.routing.libp2p.bootstrap_targets import (
    OnceLog,
    Resolver,
    Target,
    check_domain,
    check_multiaddr,
    check_url,
    read_answer,
    resolved,
    tcp_address,
    with_path,
)

log = structlog.get_logger(__name__)

DNS_LIMIT = 16
"""Addresses of a DNS answer dialled in one round, chosen at random: their members lead to all
others."""
HTTP_TIMEOUT = 3.0
"""Seconds for a request of another node's `/id`."""
HTTP_LIMIT = 1 << 20
"""Largest `/id` answer in bytes."""
DELAYS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between bootstrap attempts while no peer is connected, each ± 30 %; the last one
repeats."""
LOST_INTERVAL = 4.0
"""Seconds, ± 30 %, between two rounds of dials to lost peers: with 3 s for a dial, the halves of a
cluster meet within 10 s of their healing."""
_JITTER = (0.7, 1.3)


class Bootstrap(Protocol):
    """A source of first peers."""

    @property
    def interval(self) -> float:
        """Seconds between two searches while peers are connected.

        They find a seed that restarted, and let two halves of a cluster meet. Connected peers are
        not dialled.
        """
        ...

    async def find(self) -> Sequence[Target]:
        """Return the targets, an empty list if the source is away; never raises for that."""
        ...


class StaticBootstrap:
    """The given multiaddrs; host names in them are resolved anew each time."""

    # Costs nothing while the seeds are connected. A seed knows no peer when it starts.
    interval = 5.0

    def __init__(
        self, peers: Iterable[str], *, router_port: int, flag: str = "--static-bootstrap-peers"
    ) -> None:
        self._peers = [(check_multiaddr(peer, flag=flag), peer) for peer in peers]
        self._router_port = router_port
        self._resolver = Resolver()

    async def find(self) -> Sequence[Target]:
        addresses = [address for address, _ in self._peers]
        return await resolved(addresses, self._router_port, self._resolver)


class DnsBootstrap:
    """All A and AAAA records of one name, usually of a headless Service."""

    interval = 60.0  # one query a minute from each node; a restarted node asks by itself

    def __init__(
        self,
        domain: str,
        *,
        router_port: int,
        rng: random.Random,
        flag: str = "--dns-bootstrap-domain",
    ) -> None:
        self._domain = check_domain(domain, flag=flag)
        self._router_port = router_port
        self._rng = rng
        self._resolver = Resolver()

    async def find(self) -> Sequence[Target]:
        hosts = await self._resolver.resolve(self._domain)
        chosen = self._rng.sample(hosts, min(len(hosts), DNS_LIMIT))
        return [Target(tcp_address(host, self._router_port)) for host in chosen]


class HttpBootstrap:
    """Another node's `/id`: a JSON object {"ID", "Addrs"} as in Spegel, or a list of such objects.

    For a URL without a path, `/id` is requested, as in Spegel with `--http-bootstrap-peer`.
    """

    interval = 30.0  # one request to one server from each node

    def __init__(self, url: str, *, router_port: int, cert_dir: Path | None = None) -> None:
        self._url = with_path(check_url(url, flag="--http-bootstrap-peer"))
        self._router_port = router_port
        self._tls = _tls(cert_dir) if cert_dir is not None else None
        self._log = OnceLog()
        self._resolver = Resolver()

    async def find(self) -> Sequence[Target]:
        timeout = aiohttp.ClientTimeout(total=HTTP_TIMEOUT)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(self._url, ssl=self._tls or True) as response,
            ):
                response.raise_for_status()
                addresses = read_answer(await _read(response))
        except (aiohttp.ClientError, OSError, ValueError, ConfigError) as error:
            self._log.failed("bootstrap url does not answer", url=self._url, error=repr(error))
            return []
        self._log.mended("bootstrap url answers", url=self._url)
        return await resolved(addresses, self._router_port, self._resolver)


class NoBootstrap:
    """No first peers: other nodes find this node."""

    interval = 60.0

    async def find(self) -> Sequence[Target]:
        return []


def id_app(addresses: Callable[[], list[str]]) -> web.Application:
    """Return the application that serves `/id` to other nodes, and to Spegel."""

    async def get_id(request: web.Request) -> web.Response:
        parts = [address.partition("/p2p/") for address in addresses()]
        if not parts:
            return web.json_response({"error": "no address is known yet"}, status=503)
        return web.json_response({"ID": parts[0][2], "Addrs": [address for address, _, _ in parts]})

    app = web.Application()
    app.router.add_get("/id", get_id)
    return app


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > HTTP_LIMIT:
            raise ValueError(f"an answer of more than {HTTP_LIMIT} bytes")
    return bytes(body)


def _tls(cert_dir: Path) -> ssl.SSLContext:
    """Return a TLS context with `ca.crt`, `tls.crt` and `tls.key`, if present."""
    try:
        authority, certificate, key = (cert_dir / name for name in ("ca.crt", "tls.crt", "tls.key"))
        context = ssl.create_default_context(cafile=authority if authority.exists() else None)
        if certificate.exists():
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"--http-bootstrap-cert-dir: {cert_dir} cannot be used: {error}"
        ) from error
    return context


class Joining:
    """Runs the searches for peers.

    Args:
        dial_targets: dials targets, and returns the number of other nodes among them.
        dial_lost: dials a few lost peers.
    """

    def __init__(
        self,
        *,
        bootstrap: Bootstrap,
        is_connected: Callable[[], bool],
        dial_targets: Callable[[Sequence[Target]], Awaitable[int]],
        dial_lost: Callable[[], Awaitable[None]],
        rng: random.Random,
    ) -> None:
        self._bootstrap = bootstrap
        self._is_connected = is_connected
        self._dial_targets = dial_targets
        self._dial_lost = dial_lost
        self._rng = rng
        self._nudge = asyncio.Event()
        self._is_nudged = False
        self.expects_peers = not isinstance(bootstrap, NoBootstrap)
        """True if there should be other nodes: a source is set, and did not name this node only."""

    def __repr__(self) -> str:
        return f"<Joining by {type(self._bootstrap).__name__}, expects peers: {self.expects_peers}>"

    async def run(self) -> None:
        """Search until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_bootstrapping(), name="libp2p bootstrap")
            group.create_task(self._keep_dialling_lost(), name="libp2p lost peers")

    async def now(self) -> None:
        """Ask the source at once, with a new back-off, and dial some lost peers."""
        self._is_nudged = True
        self._nudge.set()
        await self._dial_lost()

    def members_changed(self) -> None:
        """Ask the source at once if the last peer has disconnected."""
        self._nudge.set()

    async def _keep_bootstrapping(self) -> None:
        attempt = 0
        while True:
            if await self._once():
                attempt, delay = 0, self._bootstrap.interval
            else:
                delay = DELAYS[min(attempt, len(DELAYS) - 1)]
                attempt += 1
            if await self._disturbed(delay * self._rng.uniform(*_JITTER)):
                attempt = 0

    async def _once(self) -> bool:
        """Dial the bootstrap targets. Return True if any peer is connected afterwards."""
        try:
            if targets := await self._bootstrap.find():
                self.expects_peers = await self._dial_targets(targets) > 0
        except Exception as error:  # noqa: BLE001 - the libp2p side may be down: try again
            log.debug("bootstrap attempt failed", error=repr(error))
        return self._is_connected()

    async def _keep_dialling_lost(self) -> None:
        while True:
            await asyncio.sleep(LOST_INTERVAL * self._rng.uniform(*_JITTER))
            try:
                await self._dial_lost()
            except Exception as error:  # noqa: BLE001 - the next round must come
                log.debug("looking for lost peers failed", error=repr(error))

    async def _disturbed(self, delay: float) -> bool:
        """Wait `delay` seconds, or until the last peer disconnects or `now` is called: True."""
        had_peers = self._is_connected()
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                while not self._is_nudged:
                    await self._nudge.wait()
                    self._nudge.clear()
                    if had_peers and not self._is_connected():
                        return True
        was_nudged, self._is_nudged = self._is_nudged, False
        return was_nudged
