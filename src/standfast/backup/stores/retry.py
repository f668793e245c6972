"""Any store, tried again with backoff when the trouble may pass.

Safe because objects are never replaced: a ``put`` whose answer was lost finds its
object on the next try and asks the store for its digest.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, TypeVar

from standfast.errors import AlreadyThereError, StoreError
from standfast.retry import attempts

if TYPE_CHECKING:
    import random  # noqa: TID251 - the type of an argument
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from standfast.backup.stores import Buffer, Entry, Store
    from standfast.clock import Clock

_T = TypeVar("_T")


class RetryingStore:
    """Wraps a store; see Store for the verbs.

    Args:
        inner: the store.
        clock: sleeps between tries.
        chance: the jitter's source.
        patience: seconds to spend waiting on one operation before giving up.
        tell: is told of each failure that is tried again.
        wake: ends every sleep of the clock, for ``close``.
    """

    def __init__(
        self,
        inner: Store,
        *,
        clock: Clock,
        chance: random.Random,
        patience: float,
        tell: Callable[[str], None],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._inner = inner
        self._clock = clock
        self._chance = chance
        self._patience = patience
        self._tell = tell
        self._wake = wake
        self._closed = False

    @property
    def address(self) -> str:
        """The address as the user writes it."""
        return self._inner.address

    @property
    def near(self) -> bool:
        """Whether fetching an object costs no more than having it hashed."""
        return self._inner.near

    @property
    def recorded(self) -> bool:
        """Whether digests may be what the store noted when it took an object."""
        return self._inner.recorded

    def create(self) -> None:
        """Make the place itself; not tried again, since it asks for emptiness."""
        self._inner.create()

    def put(self, name: str, data: Buffer) -> None:
        """Store a new object; see Store."""
        tried = False

        def once() -> None:
            nonlocal tried
            try:
                self._inner.put(name, data)
            except AlreadyThereError:
                if not (tried and self._is_ours(name, data)):
                    raise
            except StoreError:
                tried = True
                raise

        self._again(once)

    def replace(self, name: str, data: Buffer) -> None:
        """Put an object in another's place; doing so twice is harmless; see Store."""
        self._again(lambda: self._inner.replace(name, data))

    def get(self, name: str, limit: int) -> bytes:
        """Return an object; see Store."""
        return self._again(lambda: self._inner.get(name, limit))

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """Return a part of an object; see Store."""
        return self._again(lambda: self._inner.get_range(name, start, length))

    def get_small(self, names: Sequence[str], limit: int) -> dict[str, bytes]:
        """Return many small objects; see Store."""
        return self._again(lambda: self._inner.get_small(names, limit))

    def entries(self) -> list[Entry]:
        """Return all that lies in the store; see Store."""
        return self._again(self._inner.entries)

    def digests(self, names: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Yield digests; a broken run goes on with what is left; see Store."""
        left = dict.fromkeys(names)
        failures = attempts(self._clock, self._chance, self._patience)
        next(failures)
        while left:
            try:
                for name, digest in self._inner.digests(list(left)):
                    left.pop(name, None)
                    yield name, digest
            except StoreError as error:
                if not error.transient or self._closed or next(failures, None) is None:
                    raise
                self._tell(error.message)
            else:
                return

    def digests_after(
        self, asked: Sequence[tuple[str, str]]
    ) -> Iterator[tuple[str, str]]:
        """Ask once: a nonce that was told may not be told again; see Store."""
        return self._inner.digests_after(asked)

    def make_stable(self, folder: str) -> None:
        """Return when a folder survives a power cut; see Store."""
        self._again(lambda: self._inner.make_stable(folder))

    def delete(self, name: str) -> None:
        """Remove an object; see Store."""
        self._again(lambda: self._inner.delete(name))

    def delete_folder(self, name: str) -> None:
        """Remove a folder; see Store."""
        self._again(lambda: self._inner.delete_folder(name))

    def close(self) -> None:
        """Break off what is under way in any thread, and try nothing again."""
        self._closed = True
        self._wake()
        self._inner.close()

    def _is_ours(self, name: str, data: Buffer) -> bool:
        ours = hashlib.sha256(data).hexdigest()
        return dict(self._inner.digests([name])).get(name) == ours

    def _again(self, call: Callable[[], _T]) -> _T:
        last: StoreError | None = None
        for number in attempts(self._clock, self._chance, self._patience):
            if self._closed:
                raise StoreError(f"{self.address} was closed", transient=False)
            if last is not None:
                self._tell(f"{last.message}; try {number + 1}")
            try:
                return call()
            except StoreError as error:
                if not error.transient or self._closed:
                    raise
                last = error
        assert last is not None
        raise last
