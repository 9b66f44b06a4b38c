"""What people ask a running node on its metrics port: why pulls went where they went, and who has something."""

from __future__ import annotations

from aiohttp import web

from spegel_py.errors import RequestInvalid
from spegel_py.registry.whereabouts import Whereabouts
from spegel_py.telemetry.pull_log import LIMIT, PullLog
from spegel_py.telemetry.pull_record import RecordQuery
from spegel_py.tools.query import whole_number

SHOWN = 100
"""Records in an answer that are not limited otherwise."""


def debug_routes(*, pull_log: PullLog, whereabouts: Whereabouts) -> list[web.RouteDef]:
    """Return `/debug/decisions?key=&limit=` (newest first; a digest, a reference or a part of one), and
    `/debug/resolve?key=` (a digest or a reference)."""

    async def decisions(request: web.Request) -> web.Response:
        key = request.query.get("key")
        limit = whole_number(request.query.get("limit"), "limit", default=SHOWN, low=1, high=LIMIT)
        found = pull_log.find(RecordQuery.parse(key) if key else None, limit=limit)
        return web.json_response(
            {"decisions": found, "kept": pull_log.kept, "bytes": pull_log.bytes}
        )

    async def resolve(request: web.Request) -> web.Response:
        key = request.query.get("key")
        if not key:
            raise RequestInvalid("?key= must say what is looked for: a digest or a reference")
        return web.json_response(await whereabouts.resolve(key))

    return [web.get("/debug/decisions", decisions), web.get("/debug/resolve", resolve)]
