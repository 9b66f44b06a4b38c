"""A small client of the Kubernetes API: JSON over HTTPS, one connection per request."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
import urllib.parse
from typing import Any

from tests.support.namespaces import Namespace


class ApiError(Exception):
    """The API refused a request."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class Api:
    """The API as one user sees it. Errors are ApiError, and OSError while nobody answers."""

    def __init__(self, *, namespace: Namespace, port: int, certificate: str, token: str) -> None:
        self._namespace = namespace
        self._port = port
        self._token = token
        self._tls = ssl.create_default_context(cadata=certificate)

    async def get(self, path: str, **query: str) -> Any:
        """Return the object or list at a path; the query is given as in `labelSelector="app=x"`."""
        return await self._ask("GET", path, query=query)

    async def create(self, path: str, manifest: object) -> Any:
        """Create an object below the path of its kind."""
        return await self._ask("POST", path, body=manifest)

    async def delete(self, path: str) -> None:
        """Delete one object."""
        await self._ask("DELETE", path)

    async def is_ready(self) -> bool:
        """Return True if the API says that it is ready."""
        try:
            await self._request("GET", "/readyz", None)
        except (ApiError, OSError, http.client.HTTPException):
            return False
        return True

    async def _ask(
        self, method: str, path: str, *, query: dict[str, str] | None = None, body: object = None
    ) -> Any:
        full = f"{path}?{urllib.parse.urlencode(query)}" if query else path
        return json.loads(
            await self._request(method, full, None if body is None else json.dumps(body))
        )

    async def _request(self, method: str, path: str, body: str | None) -> str:
        host = self._namespace.address
        plain = await self._namespace.connect(host, self._port)

        def ask() -> tuple[int, str]:
            connection = http.client.HTTPConnection(host, self._port)
            try:
                connection.sock = plain
                connection.sock = self._tls.wrap_socket(plain, server_hostname=host)
                headers = {
                    "Authorization": f"Bearer {self._token}",
                    "Content-Type": "application/json",
                }
                connection.request(method, path, body=body, headers=headers)
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            finally:
                connection.close()

        status, text = await asyncio.to_thread(ask)
        if status >= 400:
            raise ApiError(status, text)
        return text
