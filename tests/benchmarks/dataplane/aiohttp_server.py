"""What aiohttp does by itself: `python -m tests.benchmarks.dataplane.aiohttp_server HOST PORT
FOLDER PEER`.

It serves what it has in FOLDER with FileResponse, and passes the rest on from PEER piece by piece.
On asyncio's own loop, since FileResponse does without sendfile on uvloop.
"""

from __future__ import annotations

import sys
from pathlib import Path

from aiohttp import ClientSession, web


async def _serve(folder: Path, peer: str) -> web.Application:
    session = ClientSession(auto_decompress=False)

    async def answer(request: web.Request) -> web.StreamResponse:
        path = folder / request.path.partition("sha256:")[2]
        return web.FileResponse(path) if path.is_file() else await relay(request)

    async def relay(request: web.Request) -> web.StreamResponse:
        async with session.get(peer + request.path_qs) as found:
            response = web.StreamResponse(
                headers={"Content-Length": found.headers["Content-Length"]}
            )
            await response.prepare(request)
            async for piece in found.content.iter_any():
                await response.write(piece)
            return response

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    return app


if __name__ == "__main__":
    host, port, folder, peer = sys.argv[1:]
    web.run_app(
        _serve(Path(folder), peer),
        host=host,
        port=int(port),
        access_log=None,
        handler_cancellation=True,
    )
