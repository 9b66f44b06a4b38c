"""Whether a registry answers now, so that tags outlive it (RFC 5861, stale-if-error).

A tag older than `--tag-ttl` is left to its registry, which may have a newer one. If the registry
does not answer, nobody has a newer one to give, and the old tag is better than none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from spegel_py.oci.reference import DOCKER_HUB
from spegel_py.tools.bounded import BoundedDict
from spegel_py.tools.threads import run_detached

TIMEOUT = 2.0
"""Seconds for an answer. The client of the pull waits for it once in AWAY seconds."""
REACHED, AWAY = 5.0, 10.0
"""Seconds for which an answer, and a missing one, count.

An answer counts for less, since it costs milliseconds, and tags of a registry that has just gone
are refused until then."""
MAX_REGISTRIES = 256
"""Registries whose state is remembered."""
MAX_CHECKS = 8
"""Registries that are asked at the same time. Further ones count as there."""

_HOSTS = {DOCKER_HUB: "registry-1.docker.io"}

Probe = Callable[[str], bool]
"""Returns True if the registry with this host and port answers. It may block."""


@dataclass(frozen=True, slots=True)
class _Known:
    is_away: bool
    until: float


class RegistryReach:
    """Asks registries whether they are there. No credentials are sent.

    Args:
        probe: asks one registry; it runs in a thread.
        clock: monotonic seconds.
    """

    def __init__(
        self, *, probe: Probe | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._probe = probe or answers
        self._clock = clock
        self._known: BoundedDict[str, _Known] = BoundedDict(limit=MAX_REGISTRIES)
        self._checks: dict[str, asyncio.Task[bool]] = {}

    def __repr__(self) -> str:
        away = sum(each.is_away for each in self._known.values())
        return f"<RegistryReach {len(self._known)} registries, {away} away>"

    async def is_away(self, registry: str) -> bool:
        """Return True if a registry does not answer now. One that is not known counts as there."""
        known = self._known.get(registry)
        if known is not None and self._clock() < known.until:
            return known.is_away
        if registry not in self._checks:
            if len(self._checks) >= MAX_CHECKS:
                return False
            self._checks[registry] = asyncio.create_task(self._check(registry))
        return await asyncio.shield(self._checks[registry])

    async def _check(self, registry: str) -> bool:
        try:
            async with asyncio.timeout(2 * TIMEOUT):  # a name may not be resolved for long
                is_away = not await run_detached(lambda: self._probe(registry), name="registry")
        except TimeoutError:
            is_away = True
        finally:
            del self._checks[registry]
        until = self._clock() + (AWAY if is_away else REACHED)
        self._known[registry] = _Known(is_away, until)
        return is_away


def answers(registry: str) -> bool:
    """Return True if a registry answers `GET /v2/` with any status below 500.

    HTTPS is tried first, then HTTP. Certificates are not verified, since nothing is sent that must
    not be read, and nothing that comes is believed.
    """
    import http.client
    import ssl

    host = _HOSTS.get(registry, registry)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for connection in (
        http.client.HTTPSConnection(host, timeout=TIMEOUT, context=context),
        http.client.HTTPConnection(host, timeout=TIMEOUT),
    ):
        try:
            connection.request("GET", "/v2/")
            return connection.getresponse().status < 500
        except (ssl.SSLError, http.client.HTTPException, ConnectionResetError):
            continue  # it may speak plain HTTP
        except (OSError, ValueError):
            return False
        finally:
            connection.close()
    return False
