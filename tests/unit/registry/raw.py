"""A client that shows what is on the wire: bytes out, bytes in, and how the connection ended."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One answer as it came: headers by lower-case name, and the body that was there."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The first error of an OCI error body."""
        assert self.headers["content-type"] == "application/json"
        [entry] = json.loads(self.body)["errors"]
        assert isinstance(entry, dict)
        return entry

    @property
    def json(self) -> Any:
        """The body of a good answer, as JSON."""
        assert self.status == 200
        return json.loads(self.body)


class RawClient:
    """A connection to a port of this machine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> RawClient:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, method: str, target: str, *lines: str, body: bytes = b"") -> Answer:
        """Send one request and read its answer."""
        head = [f"{method} {target} HTTP/1.1", "Host: x", *lines]
        return await self.send(
            "\r\n".join([*head, "", ""]).encode("latin-1") + body, has_body=method != "HEAD"
        )

    async def send(self, data: bytes, *, has_body: bool = True) -> Answer:
        """Send bytes and read one answer."""
        self.writer.write(data)
        return await self.read(has_body=has_body)

    async def read(self, *, has_body: bool = True) -> Answer:
        """Read one answer; its body may be shorter than its Content-Length if the connection
        ends.
        """
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *fields = head.rstrip().split("\r\n")
            headers = {
                name.lower(): value.strip()
                for name, _, value in (field.partition(":") for field in fields)
            }
            length = int(headers.get("content-length", 0)) if has_body else 0
            try:
                body = await self.reader.readexactly(length)
            except asyncio.IncompleteReadError as error:
                body = error.partial
        return Answer(int(line.split()[1]), headers, body)

    async def end(self) -> bytes:
        """Read to the end of the connection; raises ConnectionResetError where it was reset."""
        async with asyncio.timeout(10):
            return await self.reader.read()

    def close(self) -> None:
        self.writer.close()
