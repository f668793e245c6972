"""A vault opened for looking inside: points in time and their files.

Which archives count is decided as for a restore: by signature, listing and manifest.
Of an archive's bytes only those are read that are asked for, and each is proven
before it is used: pages of the index by digests that hang on the manifest, segments
as a restore proves them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.backup.browse.cache import IndexCache
from standfast.backup.browse.catalogue import Catalogue, Point
from standfast.backup.browse.making import IndexMaker
from standfast.backup.browse.plaintext import Plaintext, Sealed
from standfast.backup.browse.stored import open_outline, stored_reader
from standfast.backup.opening import Recognised, segments
from standfast.backup.proof import COMMITTED, REFUSED
from standfast.backup.restore import manifests_of
from standfast.backup.send import Guard
from standfast.backup.verify import compare_stream, refuse
from standfast.errors import DamagedError, UsageError
from standfast.zfs.filesystem import FileSystem, Volume
from standfast.zfs.objects import Objects
from standfast.zfs.outline import PageCache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from standfast.backup.model import Index
    from standfast.backup.proof import Trust
    from standfast.backup.recipients import X25519Identity
    from standfast.backup.vault import Vault
    from standfast.zfs.outline import Outline, SubstreamOutline

    Progress = Callable[[int, int], None]


def quietly(_title: str, _size: int) -> AbstractContextManager[Progress]:
    """Show nothing of long work."""
    return nullcontext(lambda _plain, _stored: None)


@dataclass(frozen=True)
class Looker:
    """What looking inside needs besides the vault.

    Attributes:
        identity: the vault identity.
        cache: folder of indexes made here.
        tell: is told of things on the side.
        working: shows long work, of a title and so many bytes, while it lasts; gives
            what is told of (plaintext, stored) bytes.
        secrets: passphrases or keys of encrypted datasets, for what was sent raw.
    """

    identity: X25519Identity
    cache: Path
    tell: Callable[[str], None]
    working: Callable[[str, int], AbstractContextManager[Progress]] = quietly
    secrets: Sequence[bytes] = ()


class Browser:
    """A vault's points in time.

    Args:
        vault: where they lie.
        trust: whose signatures count.
        looker: key, cache and console.

    Attributes:
        catalogue: all points.
        plaintext: reads archives.
        left_out: archives that do not count, and why.

    Raises:
        StoreError: the vault cannot be read.
    """

    def __init__(self, vault: Vault, trust: Trust, looker: Looker) -> None:
        survey, _ = vault.survey(trust)
        whole = [a for a in survey.archives if a.standing == COMMITTED]
        manifests, failed = manifests_of(vault, whole, looker.identity)
        self._vault = vault
        self._looker = looker
        self._sealed = {
            a.id: Sealed(a, manifests[a.id]) for a in whole if a.id in manifests
        }
        self._refused = [a for a in survey.archives if a.standing == REFUSED]
        self._unread = failed
        self.left_out: dict[str, str] = {k: e.message for k, e in failed.items()}
        for archive in survey.archives:
            if archive.standing != COMMITTED and archive.findings:
                self.left_out[archive.id] = archive.findings[0].text
        self.catalogue = Catalogue(whole, manifests)
        self.plaintext = Plaintext(vault, self._sealed, looker.identity)
        self._cache = IndexCache(looker.cache)
        self._outlines: dict[str, Outline] = {}
        self._pages = PageCache()

    def point(self, wanted: str) -> Point:
        """Return the point that a person means.

        Raises:
            UsageError: there is none.
            DamagedError: there is none among the archives that count, and some do
                not, for damage; it may be in these.
            NotTrustedError: the same, for the want of a trusted signature.
        """
        try:
            return self.catalogue.find(wanted)
        except UsageError:
            for archive in self._refused:
                refuse(archive)
            for error in self._unread.values():
                raise error from None
            raise

    def tree(self, point: Point) -> FileSystem:
        """Return a snapshot's files.

        Raises:
            DamagedError: something is missing or altered.
            StreamError: it holds no readable file system.
            NoIdentityError: it was sent raw, and no secret opens it.
        """
        return FileSystem(self.objects(point))

    def volume(self, point: Point) -> Volume:
        """Return a volume's snapshot; see ``tree``."""
        return Volume(self.objects(point))

    def objects(self, point: Point) -> Objects:
        """Return a snapshot's objects; see ``tree``."""
        links = self.catalogue.chain(point)
        chain = [self.outline(link) for link in links]

        def read(source: int, offset: int, length: int) -> bytes:
            return self.plaintext.read(links[source].archive, offset, length)

        def elsewhere(guid: int) -> Objects | None:
            other = self.catalogue.of_guid(guid)
            return None if other is None else self.objects(other)

        return Objects(chain, read, elsewhere, self._looker.secrets)

    def outline(self, point: Point) -> SubstreamOutline:
        """Return what the index says of a point's own stream.

        Raises:
            DamagedError: the index is not as it was made.
        """
        if point.archive not in self._outlines:
            self._outlines[point.archive] = self._open(self._sealed[point.archive])
        parts = self._outlines[point.archive].substreams
        if point.part >= len(parts) or parts[point.part].guid != point.guid:
            raise DamagedError(f"the index of {point.name} is of another stream")
        return parts[point.part]

    def close(self) -> None:
        """Let go of memory and threads."""
        self.plaintext.close()

    def _open(self, sealed: Sealed) -> Outline:
        if sealed.manifest.index is not None:
            return self._open_stored(sealed, sealed.manifest.index)
        found = self._cache.find(sealed.archive)
        if found is not None:
            try:
                return open_outline(*found, self._looker.identity, self._pages)
            except DamagedError:
                self._looker.tell("a cached index was damaged; it is made anew")
        return self._make(sealed)

    def _open_stored(self, sealed: Sealed, index: Index) -> Outline:
        read = stored_reader(self._vault, sealed.archive, index)
        return open_outline(index, read, self._looker.identity, self._pages)

    def _make(self, sealed: Sealed) -> Outline:
        """Read a whole archive once, and keep its index here."""
        manifest = sealed.manifest
        self._looker.tell(f"making the index of {manifest.name}: this reads all of it")
        maker = IndexMaker(self._looker.identity.recipient)
        guard = Guard(None, maker)
        parts = segments(
            self._vault, sealed.archive, manifest, self._looker.identity, Recognised()
        )
        title = f"making the index of {manifest.name}"
        with self._looker.working(title, manifest.size) as add:
            for piece in parts:
                guard.see(piece)
                add(len(piece), 0)
        compare_stream(guard, manifest)
        made = maker.finish()
        if made is None:
            raise DamagedError(maker.trouble)
        try:
            self._cache.keep(sealed.archive, made)
        except OSError as error:
            self._looker.tell(f"the index cannot be kept: {error.strerror}")
        data = made.data
        return open_outline(
            made.index,
            lambda at, size: bytes(data[at : at + size]),
            self._looker.identity,
            self._pages,
        )
