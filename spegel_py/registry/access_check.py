"""Asks registries for their challenge, and whether they give content for a client's credentials.

The credentials go to the registry that the client's own runtime would send them to, and nowhere
else: no redirect is followed, no proxy is asked, and nothing of them is logged.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from spegel_py.errors import ConfigError, DigestInvalid
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import PullRequest
from spegel_py.oci.manifest import MANIFESTS
from spegel_py.registry.private_rules import AWAY_FOR, challenge_of, is_open_address, may_ask
from spegel_py.registry.upstream_host import UpstreamHost, read_upstream
from spegel_py.tools.bounded import BoundedDict
from spegel_py.tools.threads import run_detached

log = structlog.get_logger(__name__)

TIMEOUT = 2.0
"""Seconds for a whole request, names and TLS included. The client of the pull waits for it."""
REREAD = 60.0
"""Seconds for which a hosts.toml is remembered."""
LOG_INTERVAL = 60.0
"""Seconds between two log records of one registry, at least."""
MAX_REQUESTS = 32
"""Requests to registries at the same time. Further ones wait, within their own TIMEOUT."""
MAX_REGISTRIES = 256
ACCEPT = ", ".join((*sorted(MANIFESTS), "*/*"))
"""The types of a client that names none. A registry may hide a manifest of a type that is missing
here, whatever the asterisks say (distribution 2.8)."""


@dataclass(frozen=True, slots=True)
class RegistryAnswer:
    """An answer of a registry; `status` is None if there was none in time."""

    status: int | None
    challenge: str = ""
    digest: Digest | None = None


NO_ANSWER = RegistryAnswer(None)


class AccessCheck:
    """Asks registries over HTTP.

    Args:
        hosts: the folder of containerd's hosts.toml files; None to use none.
        listed: the registries that are asked whatever their address is, canonical.
        plain: the registries that are asked without TLS, canonical.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        hosts: Path | None,
        listed: frozenset[str] = frozenset(),
        plain: frozenset[str] = frozenset(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hosts = hosts
        self._listed = listed
        self._plain = plain
        self._clock = clock
        self._slots = asyncio.Semaphore(MAX_REQUESTS)
        self._upstreams: BoundedDict[str, tuple[UpstreamHost, ssl.SSLContext, float]] = BoundedDict(
            limit=MAX_REGISTRIES
        )
        self._silent: BoundedDict[str, float] = BoundedDict(limit=MAX_REGISTRIES)
        self._logged: BoundedDict[str, float] = BoundedDict(limit=MAX_REGISTRIES)
        self.faults: BoundedDict[str, str] = BoundedDict(limit=MAX_REGISTRIES)
        """The registries that gave no usable answer when they were last asked, with the reason."""

    def __repr__(self) -> str:
        return f"<AccessCheck with {self._hosts}>"

    def may_ask(self, registry: str) -> bool:
        """Return True if requests may be sent to a registry that a client names."""
        return may_ask(registry, self._listed)

    async def challenge(self, registry: str) -> RegistryAnswer:
        """Return the answer of a registry to a client without credentials (`GET /v2/`)."""
        return await self._ask(registry, "GET", "/", {})

    async def head(self, pull: PullRequest, authorization: str) -> RegistryAnswer:
        """Return the answer to a HEAD of the requested content, with these credentials."""
        headers = {"Accept": ", ".join(pull.accept) or ACCEPT}
        if authorization:
            headers["Authorization"] = authorization
        path = f"/{pull.repository}/{pull.kind.value}/{pull.reference}"
        return await self._ask(pull.registry or "", "HEAD", path, headers)

    async def _ask(
        self, registry: str, method: str, path: str, headers: dict[str, str]
    ) -> RegistryAnswer:
        if self._clock() < self._silent.get(registry, 0.0):
            return NO_ANSWER
        try:
            async with asyncio.timeout(TIMEOUT), self._slots:
                upstream, tls = await self._upstream(registry)
                answer = await self._send(registry, upstream, tls, method, path, headers)
        except ConfigError as error:
            return self._fail(registry, str(error))
        except TimeoutError:
            return self._fail(registry, f"no answer in {TIMEOUT:.0f} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return self._fail(registry, _reason(error))
        self.faults.pop(registry, None)
        self._silent.pop(registry, None)
        return answer

    async def _send(
        self,
        registry: str,
        upstream: UpstreamHost,
        tls: ssl.SSLContext,
        method: str,
        path: str,
        headers: dict[str, str],
    ) -> RegistryAnswer:
        resolver = None if registry in self._listed else _OpenResolver()
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=tls, resolver=resolver, force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,  # it would read passwords from ~/.netrc
                skip_auto_headers=("Accept-Encoding",),
                headers={"User-Agent": "spegel-py"},
            ) as session,
            session.request(
                method,
                URL(f"{upstream.url}{path}", encoded=True),
                headers=headers,
                allow_redirects=False,
            ) as response,
        ):
            return RegistryAnswer(
                response.status,
                challenge_of(response.headers.getall("WWW-Authenticate", [])),
                _digest(response.headers.get("Docker-Content-Digest", "")),
            )

    async def _upstream(self, registry: str) -> tuple[UpstreamHost, ssl.SSLContext]:
        known = self._upstreams.get(registry)
        if known is not None and self._clock() < known[2]:
            return known[0], known[1]

        def read() -> tuple[UpstreamHost, ssl.SSLContext]:
            found = read_upstream(self._hosts, registry, plain=self._plain)
            return found, found.tls()

        upstream, tls = await run_detached(read, name="hosts.toml")
        self._upstreams[registry] = upstream, tls, self._clock() + REREAD
        return upstream, tls

    def _fail(self, registry: str, reason: str) -> RegistryAnswer:
        self.faults[registry] = reason
        self._silent[registry] = self._clock() + AWAY_FOR
        if self._clock() >= self._logged.get(registry, 0.0):
            self._logged[registry] = self._clock() + LOG_INTERVAL
            log.warning("registry cannot be asked", registry=registry, reason=reason)
        return NO_ANSWER


class _OpenResolver(AbstractResolver):
    """Finds the addresses of a name, except those that a client must not lead a node to."""

    def __init__(self) -> None:
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if not (allowed := [each for each in found if is_open_address(each["host"])]):
            raise OSError(
                None, f"{host} is an address of this machine, and not in --mirrored-registries"
            )
        return allowed

    async def close(self) -> None:
        await self._inner.close()


def _digest(header: str) -> Digest | None:
    try:
        return Digest.parse(header)
    except DigestInvalid:
        return None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
