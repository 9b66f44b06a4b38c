"""Where the first peers come from: a static list, a DNS name, or another node's `/id` over HTTP.

Every kind gives addresses; a peer's id may be missing and is then learnt from the handshake, a port may be missing and
is then our own router port (as Spegel does). Nothing here fails a start: what is not found now is tried again.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import structlog
from aiohttp import web
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from spegel_py.errors import ConfigError
from spegel_py.routing.libp2p.addresses import multiaddr
from spegel_py.tools.addresses import is_http_url

log = structlog.get_logger(__name__)

DNS_LIMIT = 16
"""Addresses of a DNS answer dialled in one round, chosen at random: more join through the members they know."""
HTTP_TIMEOUT = 3.0
"""Seconds for asking another node's `/id`."""
HTTP_LIMIT = 1 << 20
"""Largest `/id` answer in bytes."""
MAX_MULTIADDR, MAX_ID = 512, 128
"""Characters of an address and of a peer's id; base58 takes a time that grows with the square of its length."""
MAX_ANSWERED = 256
"""Addresses of a `/id` answer that are tried: a node has one or two, and each may be a name to resolve."""


@dataclass(frozen=True, slots=True)
class Target:
    """An address (a multiaddr without `/p2p`) to bootstrap from, and the peer's id where it is known."""

    address: str
    peer: str | None = None


class Bootstrap(Protocol):
    """A source of first peers."""

    @property
    def interval(self) -> float:
        """Seconds between two looks while other peers are connected: it is how a seed that restarted is found again,
        and how two halves of a cluster meet. A look dials only what is not connected."""
        ...

    async def find(self) -> Sequence[Target]:
        """Return targets, none if there are none now; never raises for a source that is away."""
        ...


class StaticBootstrap:
    """The multiaddrs given; host names in them are resolved anew each time."""

    interval = (
        5.0  # costs nothing while the seeds are connected, and a seed knows nobody when it starts
    )

    def __init__(
        self, peers: Iterable[str], *, router_port: int, flag: str = "--static-bootstrap-peers"
    ) -> None:
        self._peers = [(check_multiaddr(peer, flag=flag), peer) for peer in peers]
        self._router_port = router_port
        self._away = OnceLog()

    async def find(self) -> Sequence[Target]:
        return await resolved(
            [address for address, _ in self._peers], self._router_port, self._away
        )


class DnsBootstrap:
    """All A and AAAA records of one name, a headless Service's as a rule."""

    interval = 60.0  # one query a minute from each node; who restarts asks for itself

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
        self._away = OnceLog()

    async def find(self) -> Sequence[Target]:
        hosts = await _resolve(self._domain, self._away)
        chosen = self._rng.sample(hosts, min(len(hosts), DNS_LIMIT))
        return [Target(str(multiaddr(host, self._router_port))) for host in chosen]


class HttpBootstrap:
    """Another node's `/id`: a JSON object {"ID", "Addrs"}, as Spegel serves it, or a list of such objects.

    Of a URL without a path `/id` is asked for, as Spegel does with `--http-bootstrap-peer`.
    """

    interval = 30.0  # one request to one server from each node

    def __init__(self, url: str, *, router_port: int, cert_dir: Path | None = None) -> None:
        self._url = with_path(check_url(url, flag="--http-bootstrap-peer"))
        self._router_port = router_port
        self._tls = _tls(cert_dir) if cert_dir is not None else None
        self._away = OnceLog()

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
            self._away.failed("bootstrap url does not answer", url=self._url, error=repr(error))
            return []
        self._away.mended("bootstrap url answers", url=self._url)
        return await resolved(addresses, self._router_port, self._away)


class NoBootstrap:
    """No first peers: others find this node."""

    interval = 60.0

    async def find(self) -> Sequence[Target]:
        return []


def id_app(addresses: Callable[[], list[str]]) -> web.Application:
    """Return the application that serves `/id` to other nodes' HttpBootstrap (and to Spegel's)."""

    async def get_id(request: web.Request) -> web.Response:
        parts = [address.partition("/p2p/") for address in addresses()]
        if not parts:
            return web.json_response({"error": "no address is known yet"}, status=503)
        return web.json_response({"ID": parts[0][2], "Addrs": [address for address, _, _ in parts]})

    app = web.Application()
    app.router.add_get("/id", get_id)
    return app


def check_multiaddr(text: str, *, flag: str) -> Multiaddr:
    """Return the multiaddr, or raise ConfigError: it must begin with an IP or a DNS name and use TCP if anything."""
    if len(text) > MAX_MULTIADDR:
        raise ConfigError(
            f"{flag}: {text[:80]!r}… is not a multiaddr: it has {len(text)} characters"
        )
    try:
        address = Multiaddr(text)
        names = [protocol.name for protocol in address.protocols()]
        str(address)  # some that can be read cannot be written
    except Exception as error:  # py-multiaddr raises several kinds for bad input
        raise ConfigError(
            f"{flag}: {text[:160]!r} is not a multiaddr; write /ip4/10.0.0.1/tcp/5001, with or without /p2p/<id>"
        ) from error
    if (
        not names
        or names[0] not in ("ip4", "ip6", "dns", "dns4", "dns6")
        or names[1:2] not in ([], ["tcp"], ["p2p"])
    ):
        raise ConfigError(
            f"{flag}: {text[:160]!r} must have the form /ip4|ip6|dns/<host>/tcp/<port>, with or without /p2p/<id>"
        )
    return address


def check_domain(text: str, *, flag: str) -> str:
    """Return the DNS name, or raise ConfigError if it is none."""
    labels = text.rstrip(".").split(".")
    valid = all(
        0 < len(label) <= 63 and label.replace("-", "").replace("_", "").isalnum()
        for label in labels
    )
    if not valid or len(text) > 253 or not text.isascii():
        raise ConfigError(f"{flag}: {text[:160]!r} is not a DNS name")
    return text


def check_url(text: str, *, flag: str) -> str:
    """Return the http or https URL, or raise ConfigError if it is none."""
    if not is_http_url(text):
        raise ConfigError(f"{flag}: {text[:160]!r} is not an http or https URL")
    return text


def with_path(url: str) -> str:
    """Return a URL with the path `/id` where it has none."""
    parts = urlsplit(url)
    return url if parts.path.strip("/") else urlunsplit(parts._replace(path="/id"))


def read_answer(raw: bytes) -> list[Multiaddr]:
    """Return the first addresses in another node's `/id` answer. Raises ConfigError for any other bytes."""
    try:
        answer = json.loads(raw)
        entries = [answer] if isinstance(answer, dict) else answer
        given = ((address, entry.get("ID")) for entry in entries for address in entry["Addrs"])
        return [_with_peer(address, peer) for address, peer in islice(given, MAX_ANSWERED)]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ConfigError(f"no answer of /id: {error!r}"[:200]) from error


async def resolved(addresses: Iterable[Multiaddr], router_port: int, away: OnceLog) -> list[Target]:
    """Return what to dial for these addresses; a name that does not resolve, or is none, adds nothing."""
    return [
        target for address in addresses for target in await _targets(address, router_port, away)
    ]


async def _targets(address: Multiaddr | str, router_port: int, away: OnceLog) -> list[Target]:
    parts = str(address).strip("/").split("/")
    kind, host, rest = parts[0], parts[1], parts[2:]
    port = int(rest[1]) if rest[:1] == ["tcp"] else router_port
    peer = rest[rest.index("p2p") + 1] if "p2p" in rest else None
    hosts = [host] if kind in ("ip4", "ip6") else await _resolve(host, away)
    return [Target(str(multiaddr(each, port)), peer) for each in hosts]


async def _resolve(name: str, away: OnceLog) -> list[str]:
    try:
        answers = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (
        OSError,
        ValueError,
    ) as error:  # ValueError: a name that cannot be one, such as a label of 64 characters
        away.failed("bootstrap name does not resolve", name=name, error=str(error))
        return []
    away.mended("bootstrap name resolves", name=name)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > HTTP_LIMIT:
            raise ValueError(f"an answer of more than {HTTP_LIMIT} bytes")
    return bytes(body)


def _with_peer(address: object, peer: object) -> Multiaddr:
    text, name = str(address), str(peer or "")
    if name and "/p2p/" not in text:
        if len(name) > MAX_ID:
            raise ValueError(f"a peer id of {len(name)} characters")
        text = f"{text}/p2p/{ID.from_base58(name)}"
    return check_multiaddr(text, flag="bootstrap answer")


def _tls(cert_dir: Path) -> ssl.SSLContext:
    """Return a context that trusts `ca.crt` and shows `tls.crt` with `tls.key`, as far as they are there."""
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


class OnceLog:
    """Says once that something is away, and once that it is back."""

    def __init__(self) -> None:
        self._said = False

    def failed(self, event: str, **fields: object) -> None:
        (log.debug if self._said else log.warning)(event, **fields)
        self._said = True

    def mended(self, event: str, **fields: object) -> None:
        if self._said:
            log.info(event, **fields)
        self._said = False
