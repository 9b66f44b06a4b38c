"""A registry that asks for credentials, by a token server or a password, and notes each request."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.test_utils import TestServer

from spegel_py.oci.build import Image
from tests.support.image_server import ImageServer

USER, PASSWORD = "somebody", "s3cret"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
WRONG = "Basic " + base64.b64encode(f"{USER}:wrong".encode()).decode()


@dataclass
class PrivateRegistry:
    """Images for one user.

    Args:
        images: the content.
        scheme: the challenge: basic, bearer, or none for no challenge at `/v2/`.
        allowed: the repositories that the user may pull.
        token_seconds: seconds until a token ends.
        status: the answer to everything, in place of the right one; None for the right one.
        requests: method, path and Authorization of each request, those for tokens included.
    """

    images: ImageServer = field(default_factory=ImageServer)
    scheme: str = "basic"
    allowed: set[str] = field(default_factory=set)
    token_seconds: float = 300.0
    status: int | None = None
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    url: str = ""

    @property
    def address(self) -> str:
        """Its `host:port`."""
        return self.url.partition("://")[2]

    def asked(self, method: str) -> list[str]:
        """Return the paths of the requests of one method."""
        return [path for verb, path, _ in self.requests if verb == method]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        given = request.headers.get("Authorization", "")
        self.requests.append((request.method, request.path, given))
        if self.status is not None:
            headers = {"Location": "/login"} if self.status in (302, 307) else {}
            return web.Response(status=self.status, headers=headers)
        if request.path == "/token":
            return self._token(request, given)
        if request.path == "/v2/" and self.scheme == "none":
            return web.Response()
        repository = request.path.removeprefix("/v2/").rsplit("/", 2)[0]
        if not self._accepts(given, repository):
            return web.Response(status=401, headers={"WWW-Authenticate": self._challenge()})
        if request.path == "/v2/":
            return web.Response()
        if repository not in self.allowed:
            return web.Response(status=403)
        return await self.images.handle(request)

    def _challenge(self) -> str:
        if self.scheme != "bearer":
            return 'Basic realm="private"'
        return f'Bearer realm="{self.url}/token",service="private"'

    def _accepts(self, given: str, repository: str) -> bool:
        if self.scheme != "bearer":
            return given == BASIC
        claims = _claims(given)
        end = claims.get("exp")
        is_valid = isinstance(end, float | int) and end > time.time()
        return is_valid and claims.get("for") in (repository, None)

    def _token(self, request: web.Request, given: str) -> web.Response:
        if given != BASIC:
            return web.Response(status=401)
        _, repository, _ = request.query["scope"].split(":")
        claims = {"exp": time.time() + self.token_seconds, "for": repository}
        return web.json_response({"token": make_token(claims)})


def make_token(claims: object) -> str:
    """Return an unsigned token."""
    parts = [base64.urlsafe_b64encode(json.dumps(each).encode()) for each in ({}, claims, {})]
    return b".".join(part.rstrip(b"=") for part in parts).decode()


def _claims(given: str) -> dict[str, float | str | None]:
    try:
        part = given.removeprefix("Bearer ").split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@asynccontextmanager
async def private_registry(
    *images: Image, repository: str, scheme: str = "basic"
) -> AsyncIterator[PrivateRegistry]:
    """Serve these images to the user, below one repository, while the block lasts."""
    served = PrivateRegistry(scheme=scheme, allowed={repository})
    for one in images:
        served.images.add(one, "1")
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", served.handle)
    async with TestServer(app, host="127.0.0.1") as server:
        served.url = str(server.make_url("/")).rstrip("/")
        yield served
