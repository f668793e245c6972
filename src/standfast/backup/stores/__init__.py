"""Places that keep objects: the seam to everything a vault may lie on.

An object is whole or absent: ``put`` shows a name only when all its bytes are
there, and never replaces one. What a store returns is not trusted; readers check
it. Retrying is a wrapper (``retry``), never part of a store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from standfast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from standfast.pace import Pace

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Entry:
    """Something that lies in the store.

    Attributes:
        name: path relative to the vault, parts divided by ``/``.
        size: bytes; 0 for what is no file.
        kind: ``file``, ``folder`` or ``other`` (link, device, socket...).
    """

    name: str
    size: int
    kind: str


class Store(Protocol):
    """Named objects at some address."""

    @property
    def address(self) -> str:
        """The address as the user writes it."""
        ...

    @property
    def near(self) -> bool:
        """Whether fetching an object costs no more than having it hashed."""
        ...

    @property
    def recorded(self) -> bool:
        """Whether ``digests`` may be what the store noted when it took an object.

        Otherwise each is made anew from what lies there now.
        """
        ...

    def create(self) -> None:
        """Make the place itself, which must not exist or be empty.

        Raises:
            AlreadyThereError: something lies there.
            StoreError: it cannot be made.
        """
        ...

    def put(self, name: str, data: Buffer) -> None:
        """Store a new object, whole or not at all.

        Raises:
            AlreadyThereError: an object of that name exists; it is untouched.
            StoreError: it could not be stored; ``transient`` says whether trying
                again may help.
        """
        ...

    def replace(self, name: str, data: Buffer) -> None:
        """Put an object where another one is, or none.

        Whoever reads meanwhile gets the old or the new one, whole. Only the vault's
        own files are ever replaced, when its owners change.

        Raises:
            StoreError: it could not be stored; what was there is untouched.
        """
        ...

    def get(self, name: str, limit: int) -> bytes:
        """Return an object.

        Raises:
            NotFoundError: no regular file of that name is there.
            TooLargeError: it is larger than ``limit`` bytes.
            StoreError: it could not be read.
        """
        ...

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """Return up to ``length`` bytes of an object from byte ``start`` on.

        Fewer come only where the object ends.

        Raises:
            NotFoundError: no regular file of that name is there.
            StoreError: it could not be read.
        """
        ...

    def get_small(self, names: Sequence[str], limit: int) -> dict[str, bytes]:
        """Return many small objects in one go; absent or larger ones are left out."""
        ...

    def entries(self) -> list[Entry]:
        """Return all that lies in the store, sorted by name."""
        ...

    def digests(self, names: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Yield (name, SHA-256 in hex), hashed where the objects lie.

        What cannot be read is left out.
        """
        ...

    def digests_after(
        self, asked: Sequence[tuple[str, str]]
    ) -> Iterator[tuple[str, str]]:
        """Yield (name, SHA-256 in hex) of a nonce and an object hashed as one.

        The nonce is ASCII text without white space; it is hashed as it stands, before
        the object's bytes. Whoever had not the nonce before cannot have prepared the
        answer. What cannot be read is left out.

        Args:
            asked: (nonce, name) for each object.

        Raises:
            StoreError: the store failed; the nonces have been told.
        """
        ...

    def make_stable(self, folder: str) -> None:
        """Return when all that lies in ``folder`` survives a power cut.

        ``folder`` is relative to the vault; empty for the vault's own files.
        """
        ...

    def delete(self, name: str) -> None:
        """Remove an object; harmless when it is gone."""
        ...

    def delete_folder(self, name: str) -> None:
        """Remove a folder with all that lies in it; harmless when it is gone."""
        ...

    def close(self) -> None:
        """Let go of connections and processes."""
        ...


def open_store(
    address: str, pace: Pace, tell: Callable[[str], None] = lambda _: None
) -> Store:
    """Return the store at an address; nothing is touched yet.

    Args:
        address: a directory, ``ssh://[user@]host[:port]/path``, the same with
            ``sftp://``, or ``s3://bucket/prefix``.
        pace: holds back what is sent.
        tell: is told what a person should know of the place.

    Raises:
        UsageError: the address is of no kind we know.
    """
    scheme, separator, rest = address.partition("://")
    if not separator:
        from standfast.backup.stores.directory import DirectoryStore  # noqa: PLC0415

        return DirectoryStore(address, pace)
    if scheme == "ssh":
        from standfast.backup.stores.ssh import open_ssh_store  # noqa: PLC0415

        return open_ssh_store(rest, pace)
    if scheme == "sftp":
        from standfast.backup.stores.sftp import open_sftp_store  # noqa: PLC0415

        return open_sftp_store(rest, pace)
    if scheme == "s3":
        from standfast.backup.stores.s3 import S3Store  # noqa: PLC0415
        from standfast.backup.stores.s3_address import parse_s3_address  # noqa: PLC0415

        return S3Store(parse_s3_address(address), pace, tell=tell)
    raise UsageError(
        f"not a vault address: {address}",
        hint="write a directory, ssh://[user@]host[:port]/path, the same with sftp://, "
        "or s3://bucket/prefix",
    )
