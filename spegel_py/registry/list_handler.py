"""Answers lists of tags and of referrers, from this node's content and that of peers.

A partial list can be worse than none: a client that finds no signature in it may refuse the image,
or run an image whose list of faults it did not see. A client that gets a 404 asks the registry. So
by default a list is answered only while its registry does not answer, and never an empty one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from spegel_py.errors import (
    ManifestUnknown,
    NameUnknown,
    OCIError,
    StoreUnavailable,
)
from spegel_py.mirror.peer_lists import PeerLists
from spegel_py.mirror.registry_reach import RegistryReach
from spegel_py.oci.filters import EVERYTHING, Filters
from spegel_py.oci.listing import (
    FILTERS_HEADER,
    PARTIAL_HEADER,
    ListKind,
    ListRequest,
    ReferrerEntry,
    matching,
    read_referrers,
    read_tags,
    referrers_body,
    tag_page,
    tags_below,
)
from spegel_py.oci.manifest import OCI_INDEX
from spegel_py.oci.reference import canonical_name
from spegel_py.registry.askers import Asker, Doorkeeper
from spegel_py.registry.request_form import check_form
from spegel_py.store.referrers import Referrers

if TYPE_CHECKING:
    from spegel_py.registry.image_guard import ImageGuard

log = structlog.get_logger(__name__)


class ListPolicy(StrEnum):
    """When a client's request for a list is answered."""

    OFF = "off"
    REGISTRY_AWAY = "registry-away"
    ALWAYS = "always"


class ListHandler:
    """Answers the lists below `/v2/`. A peer always gets this node's own list, unless it is off.

    Args:
        tags: returns the full names of the tags here that are shared.
        referrers: finds the referrers among this node's content.
        peers: asks peers for their lists; None to list this node's own content only.
        reach: finds out whether a registry answers.
        filters: repositories that are answered with 404.
        default_registry: the registry of a client's request that names none; empty for none.
        doorkeeper: names the sender of a request.
        guard: tells the repositories that everybody may list; None without guard. A node does not
            ask the registry whether a client may see a list, and a client can ask there itself.
    """

    def __init__(
        self,
        *,
        policy: ListPolicy,
        tags: Callable[[], Iterable[str]],
        referrers: Referrers,
        peers: PeerLists | None,
        reach: RegistryReach,
        filters: Filters = EVERYTHING,
        default_registry: str = "",
        doorkeeper: Doorkeeper,
        guard: ImageGuard | None = None,
    ) -> None:
        self._guard = guard
        self._policy = policy
        self._tags = tags
        self._referrers = referrers
        self._peers = peers
        self._reach = reach
        self._filters = filters
        self._default_registry = default_registry
        self._doorkeeper = doorkeeper

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request whose target is a list. Raises OCIError."""
        check_form(request)
        wanted = ListRequest.parse(
            target=request.raw_path,
            headers=request.headers.items(),
            default_registry=self._default_registry,
        )
        asker = await self._doorkeeper.admit(request, is_mirrored=wanted.mirrored)
        if asker is Asker.PEER:
            wanted = replace(wanted, mirrored=True)  # see Door.PEERS
        if self._filters.exclude(wanted.label):
            raise _unknown(wanted, f"{wanted.label} is not mirrored")
        if not await self._is_answered(wanted):
            raise _unknown(wanted, "the registry has the whole list: ask there")
        if wanted.kind is ListKind.TAGS:
            return await self._answer_tags(wanted)
        return await self._answer_referrers(wanted)

    async def _is_answered(self, wanted: ListRequest) -> bool:
        # Case 1: the list of a private repository.
        if self._guard and not wanted.mirrored and not self._guard.may_list(wanted.label):
            return False
        # Case 2: lists are off, or a peer asks, or the operator wants every list.
        if wanted.mirrored or self._policy is not ListPolicy.REGISTRY_AWAY:
            return self._policy is not ListPolicy.OFF
        # Case 3: the registry does not answer, so nobody has the whole list.
        return wanted.registry is not None and await self._reach.is_away(wanted.registry)

    async def _answer_tags(self, wanted: ListRequest) -> web.Response:
        found = tags_below(map(canonical_name, self._tags()), wanted)
        for body in await self._from_peers(wanted):
            found |= read_tags(body)
        found = {tag for tag in found if not self._filters.exclude(f"{wanted.label}:{tag}")}
        if not found:
            raise _unknown(wanted, f"no node has a tag of {wanted.label}")
        page = tag_page(found, wanted)
        headers = {PARTIAL_HEADER: "true"} | ({"Link": page.link} if page.link else {})
        answer = {"name": wanted.repository, "tags": page.tags}
        return web.json_response(answer, headers=headers)

    async def _answer_referrers(self, wanted: ListRequest) -> web.Response:
        found = await self._own_referrers(wanted)
        for body in await self._from_peers(wanted):
            found += read_referrers(body)
        found = matching(found, wanted)
        if not found and self._policy is ListPolicy.REGISTRY_AWAY:
            raise _unknown(wanted, f"no node has such a referrer of {wanted.subject}")
        headers = {PARTIAL_HEADER: "true"}
        if wanted.artifact_type:
            headers[FILTERS_HEADER] = "artifactType"
        return web.Response(body=referrers_body(found), content_type=OCI_INDEX, headers=headers)

    async def _own_referrers(self, wanted: ListRequest) -> list[ReferrerEntry]:
        if wanted.subject is None:
            return []
        try:
            return await self._referrers.of(wanted.subject)
        except StoreUnavailable as error:
            log.warning("store away", key=str(wanted.subject), error=str(error))
            return []

    async def _from_peers(self, wanted: ListRequest) -> list[bytes]:
        if self._peers is None or wanted.mirrored:
            return []
        return await self._peers.bodies(wanted)


def _unknown(wanted: ListRequest, message: str) -> OCIError:
    error = NameUnknown if wanted.kind is ListKind.TAGS else ManifestUnknown
    return error(message)
