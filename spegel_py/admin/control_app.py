"""The application on the control socket: `/control/preheat` and `/control/evacuate`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from aiohttp import web

from spegel_py.admin.control_socket import MAX_BODY, peer_uid
from spegel_py.errors import Busy, RequestInvalid, StoreUnavailable
from spegel_py.preheat.evacuation import Evacuation
from spegel_py.preheat.preheat_jobs import PreheatJobs
from spegel_py.preheat.preheat_request import PreheatRequest
from spegel_py.registry.app import add_headers
from spegel_py.registry.middlewares import oci_errors


def create_control_app(
    *,
    preheat: PreheatJobs,
    evacuation: Evacuation,
    listed: Callable[[], Mapping[str, object] | None] = lambda: None,
) -> web.Application:
    """Return the application of the control socket.

    `POST /control/preheat` begins a job and answers 202 with it. `GET /control/preheat` answers all
    jobs, the latest first, with the list that `listed` describes, and `/control/preheat/ID` one
    job. `DELETE /control/preheat/ID` cancels it. `POST /control/evacuate` lets the node drain, and
    begins a job too. `DELETE /control/evacuate` ends the drain.
    """

    async def begin(request: web.Request) -> web.Response:
        job = await preheat.submit(
            PreheatRequest.parse(await _body(request)), actor=f"uid {peer_uid(request)}"
        )
        return web.json_response(preheat.describe(job), status=202)

    async def evacuate(request: web.Request) -> web.Response:
        given = await _body(request) if request.can_read_body else {}
        try:
            job = await evacuation.begin(given, actor=f"uid {peer_uid(request)}")
        except StoreUnavailable as error:
            raise Busy(str(error)) from error
        return web.json_response(preheat.describe(job), status=202)

    async def undo(request: web.Request) -> web.Response:
        await evacuation.undo(actor=f"uid {peer_uid(request)}")
        return web.json_response({"draining": evacuation.describe()})

    async def show_all(_: web.Request) -> web.Response:
        jobs = [preheat.describe(job) for job in preheat.all()]
        return web.json_response({"jobs": jobs, "list": listed()})

    async def show(request: web.Request) -> web.Response:
        return web.json_response(preheat.describe(preheat.get(request.match_info["id"])))

    async def cancel(request: web.Request) -> web.Response:
        actor = f"uid {peer_uid(request)}"
        job = await preheat.cancel(request.match_info["id"], actor=actor)
        return web.json_response(preheat.describe(job))

    app = web.Application(middlewares=[oci_errors], client_max_size=MAX_BODY)
    app.router.add_post("/control/preheat", begin)
    app.router.add_post("/control/evacuate", evacuate)
    app.router.add_delete("/control/evacuate", undo)
    app.router.add_get("/control/preheat", show_all)
    app.router.add_get("/control/preheat/{id}", show)
    app.router.add_delete("/control/preheat/{id}", cancel)
    app.on_response_prepare.append(add_headers)
    return app


async def _body(request: web.Request) -> object:
    try:
        return json.loads(await request.read())
    except (ValueError, RecursionError):
        raise RequestInvalid("the body should be JSON") from None
    except web.HTTPRequestEntityTooLarge:
        raise RequestInvalid(f"the body has more than {MAX_BODY} bytes") from None
