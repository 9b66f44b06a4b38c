"""The targets of a bootstrap: parsing and checking addresses, and resolving their names.

Every source gives addresses. A missing peer id is learnt from the handshake, and a missing port is
this node's own router port (as in Spegel).
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from urllib.parse import urlsplit, urlunsplit

import structlog

from spegel_py.errors import ConfigError
from spegel_py.tools.addresses import is_http_url
from spegel_py.tools.bounded import BoundedDict
from spegel_py.tools.threads import run_detached

log = structlog.get_logger(__name__)

DNS_TIMEOUT = 6.0
"""Seconds for resolving one name: glibc turns to the second name server after 5 s."""
MAX_LOOKUPS = 8
"""Names looked up at a time, each in a thread of its own."""
MAX_NAMES = 256
"""Names whose lookup is pending, and names remembered as away, so that each is logged once."""
MAX_MULTIADDR, MAX_ID = 512, 128
"""Characters of an address and of a peer's id: decoding base58 takes quadratic time."""
MAX_ANSWERED = 256
"""Addresses read of a `/id` answer: a node has one or two, and each may be a name to resolve."""


@dataclass(frozen=True, slots=True)
class Target:
    """A multiaddr to bootstrap from, without `/p2p`, and the peer's id if it is known."""

    address: str
    peer: str | None = None


def tcp_address(host: str, port: int) -> str:
    """Return the text of a multiaddr, `/ip4|ip6/<host>/tcp/<port>`."""
    return f"/ip{ipaddress.ip_address(host).version}/{host}/tcp/{port}"


def check_multiaddr(text: str, *, flag: str) -> str:
    """Return the text of a multiaddr in its usual form.

    Raises ConfigError unless it is an IP or DNS name, with TCP if any. The parser is imported here:
    a node without such a setting starts to answer before it is loaded.
    """
    from multiaddr import Multiaddr

    if len(text) > MAX_MULTIADDR:
        raise ConfigError(
            f"{flag}: {text[:80]!r}… is not a multiaddr: it has {len(text)} characters"
        )
    try:
        address = Multiaddr(text)
        names = [protocol.name for protocol in address.protocols()]
        written = str(address)  # some can be parsed, but not written
    except Exception as error:  # py-multiaddr raises several kinds for bad input
        raise ConfigError(
            f"{flag}: {text[:160]!r} is not a multiaddr; "
            "write /ip4/10.0.0.1/tcp/5001, with or without /p2p/<id>"
        ) from error
    if (
        not names
        or names[0] not in ("ip4", "ip6", "dns", "dns4", "dns6")
        or names[1:2] not in ([], ["tcp"], ["p2p"])
    ):
        raise ConfigError(
            f"{flag}: {text[:160]!r} must have the form /ip4|ip6|dns/<host>/tcp/<port>, "
            "with or without /p2p/<id>"
        )
    return written


def check_domain(text: str, *, flag: str) -> str:
    """Return the DNS name. Raises ConfigError if it is malformed."""
    labels = text.rstrip(".").split(".")
    valid = all(
        0 < len(label) <= 63 and label.replace("-", "").replace("_", "").isalnum()
        for label in labels
    )
    if not valid or len(text) > 253 or not text.isascii():
        raise ConfigError(f"{flag}: {text[:160]!r} is not a DNS name")
    return text


def check_url(text: str, *, flag: str) -> str:
    """Return the http or https URL. Raises ConfigError if it is malformed."""
    if not is_http_url(text):
        raise ConfigError(f"{flag}: {text[:160]!r} is not an http or https URL")
    return text


def with_path(url: str) -> str:
    """Return a URL, with the path `/id` if it has none."""
    parts = urlsplit(url)
    return url if parts.path.strip("/") else urlunsplit(parts._replace(path="/id"))


def read_answer(raw: bytes) -> list[str]:
    """Return the first addresses of a `/id` answer. Raises ConfigError if it is malformed."""
    try:
        answer = json.loads(raw)
        entries = [answer] if isinstance(answer, dict) else answer
        given = ((address, entry.get("ID")) for entry in entries for address in entry["Addrs"])
        return [_with_peer(address, peer) for address, peer in islice(given, MAX_ANSWERED)]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ConfigError(f"no answer of /id: {error!r}"[:200]) from error


def _with_peer(address: object, peer: object) -> str:
    from libp2p.peer.id import ID

    text, name = str(address), str(peer or "")
    if name and "/p2p/" not in text:
        if len(name) > MAX_ID:
            raise ValueError(f"a peer id of {len(name)} characters")
        text = f"{text}/p2p/{ID.from_base58(name)}"
    return check_multiaddr(text, flag="bootstrap answer")


async def resolved(addresses: Iterable[str], router_port: int, resolver: Resolver) -> list[Target]:
    """Return the targets for these addresses; a name that does not resolve adds none."""
    found = await asyncio.gather(
        *(_targets(address, router_port, resolver) for address in addresses)
    )
    return [target for targets in found for target in targets]


async def _targets(address: str, router_port: int, resolver: Resolver) -> list[Target]:
    parts = address.strip("/").split("/")
    kind, host, rest = parts[0], parts[1], parts[2:]
    port = int(rest[1]) if rest[:1] == ["tcp"] else router_port
    peer = rest[rest.index("p2p") + 1] if "p2p" in rest else None
    hosts = [host] if kind in ("ip4", "ip6") else await resolver.resolve(host)
    return [Target(tcp_address(each, port), peer) for each in hosts]


class Resolver:
    """Resolves names within a deadline, and logs once that a name is away, and that it is back.

    A lookup that takes longer goes on, and the next call for its name waits for it: so a name
    server that hangs does not pile up threads.
    """

    def __init__(self) -> None:
        self._lookups: dict[str, asyncio.Task[list[str]]] = {}
        self._slots = asyncio.Semaphore(MAX_LOOKUPS)
        self._logs: BoundedDict[str, OnceLog] = BoundedDict(limit=MAX_NAMES)

    async def resolve(self, name: str) -> list[str]:
        """Return the IP addresses of a name, an empty list if it does not resolve in time."""
        if (lookup := self._lookups.get(name)) is None:
            if len(self._lookups) >= MAX_NAMES:
                return []
            lookup = self._lookups[name] = asyncio.create_task(self._look_up(name))
            lookup.add_done_callback(lambda done: done.cancelled() or done.exception())
        log_once = self._logs.setdefault(name, OnceLog())
        try:
            async with asyncio.timeout(DNS_TIMEOUT):
                hosts = await asyncio.shield(lookup)
        except TimeoutError:
            error = f"no answer within {DNS_TIMEOUT:g} s"
            log_once.failed("bootstrap name does not resolve", name=name, error=error)
            return []
        except (OSError, ValueError) as error:  # ValueError: a label of 64 characters, for example
            log_once.failed("bootstrap name does not resolve", name=name, error=str(error))
            hosts = []
        else:
            log_once.mended("bootstrap name resolves", name=name)
        self._lookups.pop(name, None)
        return hosts

    async def _look_up(self, name: str) -> list[str]:
        find = partial(socket.getaddrinfo, name, None, type=socket.SOCK_STREAM)
        async with self._slots:
            answers = await run_detached(find, name="bootstrap-dns")
        return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


class OnceLog:
    """Logs once that a source is away, and once that it is back."""

    def __init__(self) -> None:
        self._is_away = False

    def failed(self, event: str, **fields: object) -> None:
        """Log that the source is away."""
        (log.debug if self._is_away else log.warning)(event, **fields)
        self._is_away = True

    def mended(self, event: str, **fields: object) -> None:
        """Log that the source is back, if it was away."""
        if self._is_away:
            log.info(event, **fields)
        self._is_away = False
