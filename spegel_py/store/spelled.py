"""A store that finds a tag under every spelling of its registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress

from spegel_py.errors import ContentNotFound
from spegel_py.oci.digest import Digest
from spegel_py.store.base import Content, Descriptor, Store, Tag


class SpelledStore(Store):
    """The Store port over another store.

    containerd keeps an image under the name of its pull. `spellings` maps a tag's key to the other
    names under which this node holds the tag.
    """

    def __init__(self, *, store: Store, spellings: Callable[[str], Iterable[str]]) -> None:
        self._store = store
        self._spellings = spellings

    def __repr__(self) -> str:
        return f"<SpelledStore {self._store!r}>"

    async def resolve(self, name: str) -> Tag:
        """Return the tag. Of several spellings, the last pulled one counts."""
        found = []
        for each in dict.fromkeys((name, *self._spellings(name))):
            with suppress(ContentNotFound):
                found.append(await self._store.resolve(each))
        if not found:
            raise ContentNotFound(f"{name} is not here")
        return max(found, key=lambda tag: tag.pulled)

    async def stat(self, digest: Digest) -> Descriptor:
        return await self._store.stat(digest)

    def open(self, digest: Digest) -> AbstractAsyncContextManager[Content]:
        return self._store.open(digest)
