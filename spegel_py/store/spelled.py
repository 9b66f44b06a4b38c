"""A store in which a tag is found however its registry is spelled in the image's name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress

from spegel_py.errors import ContentNotFound
from spegel_py.oci.digest import Digest
from spegel_py.store.base import Content, Descriptor, Store, Tag


class SpelledStore(Store):
    """The Store port over another store.

    containerd keeps an image under the name that it was pulled by. `spellings` returns the names
    under which a tag is held here, by its key, beside the key itself.
    """

    def __init__(self, *, store: Store, spellings: Callable[[str], Iterable[str]]) -> None:
        self._store = store
        self._spellings = spellings

    def __repr__(self) -> str:
        return f"<SpelledStore {self._store!r}>"

    async def resolve(self, name: str) -> Tag:
        """Return what the tag points at; of several spellings, the one that was pulled last."""
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
