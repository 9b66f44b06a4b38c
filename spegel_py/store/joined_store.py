"""Several stores as one: the containerd namespaces of one node."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from spegel_py.errors import ContentNotFound, StoreError, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.store.base import Content, Descriptor, Origins, Store, Tag

T = TypeVar("T")


class JoinedStore:
    """The Store port over several stores: content that one of them has is here.

    If several have a tag, the first one's digest counts.
    """

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = stores

    def __repr__(self) -> str:
        return f"<JoinedStore {list(self.stores)!r}>"

    async def resolve(self, name: str) -> Tag:
        return await self._first(lambda store: store.resolve(name))

    async def stat(self, digest: Digest) -> Descriptor:
        return await self._first(lambda store: store.stat(digest))

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[Content]:
        async with AsyncExitStack() as stack:
            yield await self._first(lambda store: stack.enter_async_context(store.open(digest)))

    async def _first(self, ask: Callable[[Store], Awaitable[T]]) -> T:
        """Return the first answer. A store that is away may have what the others do not."""
        failure: StoreError = ContentNotFound("no store is joined here")
        for store in self.stores:
            try:
                return await ask(store)
            except ContentNotFound as error:
                if not isinstance(failure, StoreUnavailable):
                    failure = error
            except StoreUnavailable as error:
                failure = error
        raise failure


class JoinedOrigins:
    """The Origins port over several stores: the origins in all of them."""

    def __init__(self, origins: Sequence[Origins]) -> None:
        self._origins = origins

    def __repr__(self) -> str:
        return f"<JoinedOrigins {list(self._origins)!r}>"

    async def sources(self, digest: Digest) -> frozenset[str]:
        return frozenset[str]().union(*[await each.sources(digest) for each in self._origins])
