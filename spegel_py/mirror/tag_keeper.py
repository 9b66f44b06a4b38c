"""Keeps the book of tags up to date while a node runs, and its origins across restarts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import aiofiles
import structlog

from spegel_py.errors import StoreError
from spegel_py.mirror.tag_book import TagBook
from spegel_py.store.base import Store
from spegel_py.tools.files import replace_file
from spegel_py.tools.threads import run_detached

log = structlog.get_logger(__name__)

FILE_NAME = "tags.json"
"""The file below the data directory."""

INTERVAL = 5.0
"""Seconds between two looks at the connected nodes, and two writes of the file."""

MAX_FILE = 8 * 1024 * 1024
"""Bytes of a file that is read. One with the most tags, and long names, has 2.5 MB."""


class TagKeeper:
    """Runs what the book of tags needs.

    Args:
        folder: the data directory; None to forget all origins at the end.
    """

    def __init__(self, *, book: TagBook, store: Store, folder: Path | None) -> None:
        self.book = book
        self._store = store
        self._path = folder / FILE_NAME if folder is not None else None

    def __repr__(self) -> str:
        return f"<TagKeeper {self._path} {self.book!r}>"

    async def load(self) -> None:
        """Read the origins of the earlier run. A file that cannot be read is logged and ignored."""
        if self._path is None:
            return
        try:
            async with aiofiles.open(self._path, "rb") as file:
                read = json.loads(await file.read(MAX_FILE))
            for entry in read["tags"]:
                self.book.restore(entry)
            self.book.origins.has_changed = False
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("tag file unusable", path=str(self._path), error=str(error))

    async def run(self) -> None:
        """Look after the book until cancelled, and write the file at the end."""
        try:
            while True:
                self.book.look()
                await self._observe()
                await self._write()
                await asyncio.sleep(INTERVAL)
        finally:
            self._write_now()

    async def _observe(self) -> None:
        """Make the observations of the tags that the runtime has pulled from their registry."""
        for name in self.book.arrived():
            try:
                tag = await self._store.resolve(name)
            except StoreError as error:
                log.debug("tag not observed", name=name, error=str(error))
            else:
                self.book.header(name, tag.digest, tag.pulled)

    async def _write(self) -> None:
        if self._path is not None and (text := self._text()) is not None:
            await run_detached(partial(_replace, self._path, text), name="tags")

    def _write_now(self) -> None:
        if self._path is not None and (text := self._text()) is not None:
            _replace(self._path, text)

    def _text(self) -> str | None:
        """Return the text of the file, None if it need not be written."""
        origins = self.book.origins
        if not origins.has_changed:
            return None
        origins.has_changed = False
        written: Mapping[str, object] = {"version": 1, "tags": list(origins.written())}
        return json.dumps(written)


def _replace(path: Path, text: str) -> None:
    try:
        replace_file(path, text.encode(), mode=0o600)
    except OSError as error:
        log.warning("tag file not written", path=str(path), error=str(error))
