"""The JSON routes below `/debug/`: pull records, holders, images, measurements."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing

from aiohttp import web

from spegel_py.admin.guard import check_origin
from spegel_py.admin.holder_lookup import HolderLookup
from spegel_py.admin.image_pulls import Record, group
from spegel_py.admin.images import MOST, SHOWN, LocalImages
from spegel_py.admin.measurement import Measurement
from spegel_py.admin.measurer import Measurer
from spegel_py.admin.pull_advice import advice
from spegel_py.errors import Denied, RequestInvalid
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import PullClient
from spegel_py.telemetry.pull_log import LIMIT, PullLog
from spegel_py.telemetry.pull_record import RecordQuery
from spegel_py.tools.query import whole_number

LINES = "application/x-ndjson"

RECORDS_SHOWN = 100
"""Records in an answer by default."""

PULLS_SHOWN = 20
"""Pulls of images in an answer by default."""


def pull_routes(
    *, pull_log: PullLog, holder_lookup: HolderLookup, images: LocalImages
) -> list[web.RouteDef]:
    """Return the routes of pull records, of pulls and of holders.

    `/debug/pulls?key=&limit=&measured=` answers the latest pull of an image first. With
    `measured=true` these are the pulls by people, otherwise those by runtimes.

    `/debug/decisions?key=&limit=` searches by a digest, a reference or a part of either, and
    answers the newest record first. `/debug/resolve?key=` takes a digest or a reference.
    """

    async def decisions(request: web.Request) -> web.Response:
        key = request.query.get("key")
        limit = whole_number(
            request.query.get("limit"), "limit", default=RECORDS_SHOWN, low=1, high=LIMIT
        )
        found = pull_log.find(RecordQuery.parse(key) if key else None, limit=limit)
        return web.json_response(
            {"decisions": found, "kept": pull_log.kept, "bytes": pull_log.bytes}
        )

    async def pulls(request: web.Request) -> web.Response:
        key, people = request.query.get("key"), request.query.get("measured") == "true"
        limit = whole_number(
            request.query.get("limit"), "limit", default=PULLS_SHOWN, low=1, high=LIMIT
        )
        records = pull_log.find(None, limit=LIMIT)
        content = await images.content(
            {Digest.parse(one["digest"]) for one in records if _is_manifest(one)}
        )
        query = RecordQuery.parse(key) if key else None
        found = [one for one in group(records, content) if query is None or one.matches(query)]
        asked = [one for one in found if (one.client != PullClient.RUNTIME) == people]
        return web.json_response(
            {
                "pulls": [{**one.as_json(), "advice": advice(one)} for one in asked[::-1][:limit]],
                "others": len(found) - len(asked),
                "kept": pull_log.kept,
            }
        )

    async def resolve(request: web.Request) -> web.Response:
        key = request.query.get("key")
        if not key:
            raise RequestInvalid("?key= must say what is looked for: a digest or a reference")
        return web.json_response(await holder_lookup.resolve(key))

    return [
        web.get("/debug/decisions", decisions),
        web.get("/debug/pulls", pulls),
        web.get("/debug/resolve", resolve),
    ]


def _is_manifest(record: Record) -> bool:
    return record["kind"] == "manifest" and record["digest"] is not None


def image_routes(*, images: LocalImages, measurer: Measurer | None) -> list[web.RouteDef]:
    """Return `GET /debug/images?part=&offset=&limit=`, and `POST /debug/measure?image=`.

    `/debug/measure` answers when the measurement is over. If `Accept` is application/x-ndjson, it
    answers with a line for each report, and `over` is true in the last line. A client that leaves
    ends its measurement. Without a `measurer` nobody may measure.
    """

    async def show_images(request: web.Request) -> web.Response:
        query = request.query
        offset = whole_number(query.get("offset"), "offset", default=0, low=0, high=10**9)
        limit = whole_number(query.get("limit"), "limit", default=SHOWN, low=1, high=MOST)
        listing = await images.list(part=query.get("part", ""), offset=offset, limit=limit)
        return web.json_response(listing.as_json())

    async def measure(request: web.Request) -> web.StreamResponse:
        if measurer is None:
            raise Denied("measuring is switched off on this node, by --debug-web-enabled=false")
        check_origin(request.headers)
        image = request.query.get("image")
        if not image:
            raise RequestInvalid(
                "?image= must say what is measured: a reference, as in registry.example/app:1"
            )
        async with aclosing(measurer.follow(image)) as steps:
            measurement = await anext(steps)  # a refusal is raised here
            if LINES in request.headers.get("Accept", ""):
                return await _stream(request, measurement, steps)
            async for _ in steps:
                pass
            return web.json_response(measurement.as_json())

    return [web.get("/debug/images", show_images), web.post("/debug/measure", measure)]


def replica_routes(describe: Callable[[], Mapping[str, object]]) -> list[web.RouteDef]:
    """Return `GET /debug/replicas`: the floor, and each image with its replicas."""

    async def show_replicas(_: web.Request) -> web.Response:
        return web.json_response(describe())

    return [web.get("/debug/replicas", show_replicas)]


async def _stream(
    request: web.Request, measurement: Measurement, steps: AsyncIterator[Measurement]
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": LINES, "Cache-Control": "no-store"})
    await response.prepare(request)
    await response.write(_line(measurement))
    async for _ in steps:
        await response.write(_line(measurement))
    return response


def _line(measurement: Measurement) -> bytes:
    return json.dumps(measurement.as_json(), separators=(",", ":")).encode() + b"\n"
