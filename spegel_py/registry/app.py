"""The application of the registry, with its probes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from aiohttp import web

from spegel_py.errors import NotFound
from spegel_py.mirror.freshness import Freshness, TagPolicy
from spegel_py.mirror.pull import Mirror
from spegel_py.mirror.registry_reach import RegistryReach
from spegel_py.mirror.tag_book import TagBook
from spegel_py.oci.distribution import origin_form
from spegel_py.oci.filters import EVERYTHING, Filters
from spegel_py.oci.listing import is_list
from spegel_py.registry import responses
from spegel_py.registry.askers import Door, Doorkeeper
from spegel_py.registry.background_pieces import Gate, open_gate
from spegel_py.registry.ingest_reader import IngestReader
from spegel_py.registry.list_handler import ListHandler
from spegel_py.registry.metrics import ServerMetrics
from spegel_py.registry.middlewares import authenticate, close_gently, measure, oci_errors
from spegel_py.registry.proof_gate import ProofGate
from spegel_py.registry.pull_handler import PullHandler
from spegel_py.registry.request_form import check_method
from spegel_py.registry.tag_rules import TagRules
from spegel_py.registry.transfer_limits import TransferLimits
from spegel_py.store.base import Origins, Store
from spegel_py.telemetry.pull_log import PullLog
from spegel_py.tools.basic_auth import Credentials
from spegel_py.tools.runtime_token import TokenFile
from spegel_py.transfer.sender import Sender

if TYPE_CHECKING:
    from spegel_py.registry.image_guard import ImageGuard

Probe = Callable[[], Mapping[str, object]]
"""Returns the answer to a probe as JSON; the probe fails if `reasons` is not empty."""


def _alive() -> Mapping[str, object]:
    return {"live": True, "reasons": []}


def create_app(
    *,
    store: Store,
    sender: Sender,
    mirror: Mirror | None,
    metrics: ServerMetrics,
    pull_log: PullLog,
    ready: Probe,
    live: Probe = _alive,
    filters: Filters = EVERYTHING,
    freshness: Freshness | None = None,
    limits: TransferLimits | None = None,
    credentials: Credentials | None = None,
    client_timeout: float = 60.0,
    door: Door = Door.ALL,
    node: str = "",
    tokens: TokenFile | None = None,
    ingest_reader: IngestReader | None = None,
    origins: Origins | None = None,
    gate: Gate = open_gate,
    default_registry: str = "",
    reach: RegistryReach | None = None,
    proof_gate: ProofGate | None = None,
    needs_tls: bool = False,
    tag_policy: TagPolicy = TagPolicy.PEERS_FIRST,
    tag_book: TagBook | None = None,
    lists: ListHandler | None = None,
    guard: ImageGuard | None = None,
) -> web.Application:
    """Return the application of the registry.

    Args:
        mirror: fetches content from peers; None to serve only this node's own content.
        ready: answers `/readyz`.
        live: answers `/livez`.
        credentials: the user and password of clients; None to serve every client.
        client_timeout: seconds after which a client that does not read is disconnected.
        door: the clients that the application is for.
        node: the name by which this node's runtime identifies itself.
        tokens: the tokens by which it identifies itself; None to go by the name.
        ingest_reader: serves content that is still being downloaded to peers; None to not do it.
        origins: returns the origin of content; without it, filters decide by names only.
        gate: is awaited before each piece that is sent in the background.
        default_registry: the registry of a client's request that names none; empty for none.
        reach: finds out whether a tag's registry answers; None to answer no tag that is too old.
        proof_gate: checks proofs of peers, and proves answers; None to do neither.
        needs_tls: answer only this node's own runtime, and clients with TLS.
        tag_policy: who is asked first for a client's tag.
        tag_book: has the observations of tags; None to believe every peer, and make none.
        lists: answers lists of tags and of referrers; None to answer none.
        guard: decides whether this node's runtime may have a private image; None without guard.
    """
    probes = {"/readyz": ready, "/livez": live}
    pulls = PullHandler(
        store=store,
        sender=sender,
        mirror=mirror,
        metrics=metrics,
        filters=filters,
        tags=TagRules(
            freshness=freshness or Freshness(), reach=reach, policy=tag_policy, book=tag_book
        ),
        limits=limits or TransferLimits(per_peer=0, overall=0, metrics=metrics),
        pull_log=pull_log,
        client_timeout=client_timeout,
        doorkeeper=Doorkeeper(
            door=door,
            node=node,
            tokens=tokens,
            needs_proof=proof_gate is not None and proof_gate.is_required,
            needs_tls=needs_tls,
        ),
        ingest_reader=ingest_reader,
        origins=origins,
        gate=gate,
        default_registry=default_registry,
        guard=guard,
    )

    async def handle(request: web.Request) -> web.StreamResponse:
        path = origin_form(request.raw_path).partition("?")[0]
        if lists is not None and is_list(path):
            return await lists.handle(request)
        if path == "/v2" or path.startswith("/v2/"):
            return await pulls.handle(request)
        if path not in probes:
            raise NotFound(f"no such endpoint: {path[:160]!r}")
        check_method(request)
        answer = probes[path]()
        return web.json_response(answer, status=500 if answer["reasons"] else 200)

    before = [authenticate(credentials)] if credentials else []
    if proof_gate is not None:
        before.insert(0, proof_gate.middleware())
    app = web.Application(middlewares=[close_gently, *before, measure(metrics), oci_errors])
    # no 100 Continue: a body is refused, so it need not come
    app.router.add_route("*", "/{tail:.*}", handle, expect_handler=_ignore)
    app.on_response_prepare.append(add_headers)
    if proof_gate is not None:
        app.on_response_prepare.append(proof_gate.sign)
    return app


async def _ignore(_request: web.Request) -> None:
    return None


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add the headers that every answer of a node has."""
    response.headers["Server"] = responses.SERVER
    if response.status < 300 and (age := request.get(responses.AGE)) is not None:
        response.headers["Age"] = age
    if origin_form(request.raw_path).startswith("/v2"):
        name, value = responses.API_VERSION
        response.headers[name] = value
