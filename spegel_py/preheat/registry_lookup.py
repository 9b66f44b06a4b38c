"""The registries behind the mirrors: their addresses, and the digest that a tag has there.

A registry is asked with the credentials for its repository and with no others. A redirect takes
them to no other host, and neither does the answer of such a host (`pull.mirror_client`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from yarl import URL

from spegel_py.errors import ConfigError, OCIError, PeerError
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import PullClient
from spegel_py.oci.reference import DOCKER_HUB, Reference, canonical_registry
from spegel_py.preheat.preheat_fault import PreheatFailed, PreheatFault, fault_of
from spegel_py.preheat.registry_credentials import RegistryCredentials
from spegel_py.pull.mirror_client import Manifest, MirrorClient, PullDeadlines
from spegel_py.tools.addresses import MirrorAddress, is_loopback
from spegel_py.tools.basic_auth import Credentials

DOCKER_HUB_HOST = "registry-1.docker.io"
"""The host that answers for docker.io."""

DEADLINES = PullDeadlines(connect=5.0, head=20.0, stall=20.0)


def plain_registries(given: Iterable[str]) -> frozenset[str]:
    """Return the registries that are listed with `http://`, in the canonical spelling."""
    parts = [urlsplit(each) for each in given]
    return frozenset(canonical_registry(one.netloc) for one in parts if one.scheme == "http")


def registry_url(registry: str, *, plain: frozenset[str]) -> str:
    """Return the address of a registry. Pure.

    As in containerd, a registry of this machine is asked without TLS, and all others with it, but
    for those in `plain`.
    """
    host = canonical_registry(registry)
    if host == DOCKER_HUB:
        return f"https://{DOCKER_HUB_HOST}"
    is_plain = is_of_this_machine(host) or host in plain
    return f"{'http' if is_plain else 'https'}://{host}"


def is_of_this_machine(registry: str) -> bool:
    """Return True for a registry whose name leads each node to itself."""
    host = urlsplit(f"//{canonical_registry(registry)}").hostname or ""
    return host == "localhost" or is_loopback(host)


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    """The digest of an image.

    `seen` is the Unix time at which the registry gave it for the tag; None if it did not: the
    digest was given, or it is a peer's.
    """

    digest: Digest
    seen: float | None = None


class RegistryLookup:
    """Asks registries for the digests of tags.

    Args:
        plain: registries that are asked without TLS, in the canonical spelling.
        mirror: the URL of this node's own mirror, which answers with its peers' tags.
    """

    def __init__(
        self,
        *,
        credentials: RegistryCredentials,
        plain: frozenset[str],
        mirror: str | MirrorAddress,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._credentials = credentials
        self._plain = plain
        self._mirror = mirror
        self._clock = clock

    def __repr__(self) -> str:
        return f"<RegistryLookup {self._credentials!r}>"

    def changed(self, name: str) -> int:
        """Return when the credentials of this name were last changed, as they say it."""
        return self._credentials.changed(name)

    async def credentials_fault(self) -> str:
        """Return the fault of the unnamed file of credentials; empty for none."""
        return await self._credentials.fault()

    async def credentials(self, reference: Reference, *, name: str = "") -> Credentials | None:
        """Return the user and password for an image; None for none. Raises PreheatFailed."""
        try:
            return await self._credentials.find(reference, name=name)
        except ConfigError as error:
            raise PreheatFailed(PreheatFault.NO_CREDENTIALS, str(error)) from None

    async def url(self, reference: Reference, *, name: str = "") -> str:
        """Return the URL of an image's registry, with the user and password for it.

        It is for a MirrorClient, which does not show them. `name` chooses a file of credentials.
        Raises PreheatFailed.
        """
        found = await self.credentials(reference, name=name)
        url = URL(registry_url(reference.registry, plain=self._plain))
        if found is not None:
            url = url.with_user(found.username).with_password(found.password)
        return str(url)

    async def resolve(self, reference: Reference, *, name: str = "") -> ResolvedImage:
        """Return the digest of an image: its own, or the one that its tag has now.

        The registry is asked first, because peers may know an older digest. If it gives none, they
        are asked. Raises PreheatFailed, with the registry's fault.
        """
        if reference.digest is not None:
            return ResolvedImage(reference.digest)
        try:
            url = await self.url(reference, name=name)
            digest = await self._ask(url, reference, is_upstream=True)
            return ResolvedImage(digest, self._clock())
        except (OCIError, PeerError, PreheatFailed) as error:
            fault = fault_of(error)
        try:
            return ResolvedImage(await self._ask(self._mirror, reference, is_upstream=False))
        except (OCIError, PeerError):
            raise fault from None

    async def _ask(
        self, mirror: str | MirrorAddress, reference: Reference, *, is_upstream: bool
    ) -> Digest:
        client = MirrorClient(
            mirror=mirror,
            reference=reference,
            deadlines=DEADLINES,
            is_upstream=is_upstream,
            client=PullClient.PULL,
        )
        async with client:
            found = await client.resolve(reference.tag or "")
        return found.child.digest if isinstance(found, Manifest) else found.digest
