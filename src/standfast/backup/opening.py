"""Reading a vault back with a key: identity, manifest, segments.

Nothing is believed because it lies in the vault. The manifest counts because a
trusted signature covers its digest; a segment's bytes count when their SHA-256 is
the signed one, they decrypt, every zstd frame ends with its checksum, and size and
fingerprint are the manifest's.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import queue
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from standfast.backup.age import AgeError, decrypt, decrypt_chunks
from standfast.backup.compress import decompress_into
from standfast.backup.keyfiles import parse_identities
from standfast.backup.model import (
    DEFAULT_SEGMENT_SIZE,
    IDENTITY_OBJECT,
    INDEX_OBJECT,
    LARGEST_DOCUMENT,
    LARGEST_MANIFEST,
    LARGEST_SEGMENT,
    MANIFEST_OBJECT,
    Manifest,
    decode,
    segment_name,
)
from standfast.backup.recipients import (
    X25519Identity,
)
from standfast.backup.sealing import (
    fingerprint,
    make_buffer,
    sealed_bound,
    worker_count,
)
from standfast.errors import (
    DamagedError,
    NoIdentityError,
    NotFoundError,
    StandfastError,
    StoreError,
    TooLargeError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from standfast.backup.age import Identity, Stanza
    from standfast.backup.proof import Archive
    from standfast.backup.stores import Store
    from standfast.backup.vault import Vault


@dataclass(frozen=True)
class VaultIdentity(X25519Identity):
    """The vault's identity, and those that it had before.

    Attributes:
        former: they open what was sent in their time.
    """

    former: tuple[X25519Identity, ...] = field(default=(), repr=False)

    def unwrap(self, stanzas: Sequence[Stanza]) -> bytes | None:
        """Return the file key by whichever of them fits."""
        keys = (
            one.unwrap(stanzas) for one in (X25519Identity(self.secret), *self.former)
        )
        return next((key for key in keys if key is not None), None)


def open_vault_identity(vault: Vault, identities: Sequence[Identity]) -> VaultIdentity:
    """Return the vault identity, opened with an owner's key.

    The vault identity itself is accepted too, as ``age -d identity.age`` gives it.

    Raises:
        NoIdentityError: none of the identities opens it.
        DamagedError: ``identity.age`` is missing, damaged, or of another vault.
    """
    given = _of_vault(vault, identities)
    if given is not None:
        return given
    try:
        sealed = vault.store.get(IDENTITY_OBJECT, LARGEST_DOCUMENT)
        opened = bytes(decrypt(sealed, identities))
    except NotFoundError:
        raise DamagedError(
            f"{IDENTITY_OBJECT} is missing from the vault",
            hint="a copy of the vault, or of this file, opens the vault as well",
        ) from None
    except AgeError as error:
        raise DamagedError(f"{IDENTITY_OBJECT}: {error.message}") from None
    except NoIdentityError as error:
        raise NoIdentityError(
            f"no key or passphrase given opens the vault: {error.message}",
            hint="the recovery kit says whose key does",
        ) from None
    found = _of_vault(vault, parse_identities(opened, IDENTITY_OBJECT, None))
    if found is None:
        raise DamagedError(f"{IDENTITY_OBJECT} holds the identity of another vault")
    return found


def _of_vault(vault: Vault, identities: Sequence[Identity]) -> VaultIdentity | None:
    """Return the vault's identity, if it is among some.

    What is pinned must be there. Beside it the vault may have a newer one, which the
    owner has made since; whoever holds the older says that they belong together.
    """
    pinned = vault.record.recipient if vault.record else vault.info.recipient
    own = {i.recipient.text: i for i in identities if isinstance(i, X25519Identity)}
    if pinned not in own:
        return None
    first = own.pop(vault.info.recipient, None) or own.pop(pinned)
    return VaultIdentity(first.secret, tuple(own.values()))


def read_manifest(vault: Vault, archive: Archive, identity: X25519Identity) -> Manifest:
    """Return an archive's manifest.

    Raises:
        DamagedError: it is missing, altered, or does not fit the archive.
        StoreError: it cannot be fetched.
    """
    path = archive.path(MANIFEST_OBJECT)
    try:
        sealed = vault.store.get(path, LARGEST_MANIFEST)
    except NotFoundError:
        raise DamagedError(f"{path} is missing") from None
    return open_manifest(vault, archive, identity, sealed)


def open_manifest(
    vault: Vault, archive: Archive, identity: X25519Identity, sealed: bytes
) -> Manifest:
    """Return the manifest in a sealed object, checked against the signed sums.

    Raises:
        DamagedError: as ``read_manifest``.
    """
    path = archive.path(MANIFEST_OBJECT)
    if hashlib.sha256(sealed).hexdigest() != archive.sums.get(MANIFEST_OBJECT):
        raise DamagedError(f"{path} was altered: its SHA-256 is not the signed one")
    try:
        opened = bytes(decrypt(sealed, [identity]))
    except AgeError as error:
        raise DamagedError(f"{path}: {error.message}") from None
    except NoIdentityError:
        raise DamagedError(f"{path} is sealed to another vault") from None
    manifest = decode(opened, Manifest, path)
    segments = {segment_name(i): s.sha256 for i, s in enumerate(manifest.segments)}
    if manifest.index is not None:
        segments[INDEX_OBJECT] = manifest.index.object_sha256
    signed = {n: d for n, d in archive.sums.items() if n != MANIFEST_OBJECT}
    whole = (
        manifest.vault == vault.info.vault
        and manifest.archive == archive.id
        and segments == signed
        and manifest.size == sum(s.size for s in manifest.segments)
    )
    if not whole:
        raise DamagedError(f"{path} does not describe this archive")
    return manifest


def segments(
    vault: Vault,
    archive: Archive,
    manifest: Manifest,
    identity: X25519Identity,
    recognised: Recognised,
) -> Iterator[memoryview]:
    """Yield the plaintext of each segment in order, a few opened ahead.

    What is yielded is good until the next is asked for: its memory is used again.

    Args:
        vault: where the archive lies.
        archive: judged and trusted.
        manifest: its manifest.
        identity: the vault identity.
        recognised: what was hashed here before; may be empty.

    Raises:
        DamagedError: a segment is not what was sealed; nothing of it is yielded.
        StoreError: a segment cannot be fetched.
    """
    opener = _Opener(vault, archive, manifest, identity, recognised)
    pool = ThreadPoolExecutor(opener.workers, thread_name_prefix="open")
    ahead: deque[Future[memoryview]] = deque()
    indexes = iter(range(len(manifest.segments)))
    try:
        for index in islice(indexes, opener.workers):
            ahead.append(pool.submit(opener.open, index))
        while ahead:
            plain = ahead.popleft().result()
            for index in islice(indexes, 1):
                ahead.append(pool.submit(opener.open, index))
            yield plain
            opener.take_back(plain)
    except (StoreError, KeyboardInterrupt):
        # Workers may be waiting for a far end that never answers. Damage is no such
        # reason: who verifies goes on to the next archive.
        vault.store.close()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Recognised:
    """Objects that were hashed here once, and are told again at memory speed.

    A second SHA-256 of the same bytes would be the dearest part of a restore from a
    directory. What the first pass saw is kept as an AES-GMAC under a key that only
    this process ever knew: what lies in the vault may be swapped meanwhile, but not
    for anything that has the same tag.
    """

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._places: dict[str, int] = {}
        self._seen: dict[str, tuple[str, str]] = {}

    def digests(
        self, store: Store
    ) -> Callable[[Iterable[str]], Iterator[tuple[str, str]]]:
        """Return a hasher that fetches objects and remembers what it saw."""

        def hash_all(names: Iterable[str]) -> Iterator[tuple[str, str]]:
            names = list(names)
            self._places = {name: place for place, name in enumerate(names)}
            workers = worker_count(DEFAULT_SEGMENT_SIZE)
            with ThreadPoolExecutor(workers, thread_name_prefix="hash") as pool:
                found = pool.map(lambda name: self._look(store, name), names)
                yield from (pair for pair in found if pair[1])

        return hash_all

    def sha256(self, name: str, data: bytes) -> str:
        """Return an object's SHA-256 in hex, made anew only if it is not known."""
        tag, digest = self._seen.get(name, ("", ""))
        if tag and self._tag(name, data) == tag:
            return digest
        return hashlib.sha256(data).hexdigest()

    def _look(self, store: Store, name: str) -> tuple[str, str]:
        try:
            data = store.get(name, LARGEST_MANIFEST)
        except (NotFoundError, TooLargeError):
            return name, ""
        digest = hashlib.sha256(data).hexdigest()
        self._seen[name] = (self._tag(name, data), digest)
        return name, digest

    def _tag(self, name: str, data: bytes) -> str:
        return fingerprint(self._key, self._places[name], data)


class _Opener:
    """Opens one archive's segments into memory that is made once.

    Each worker fills a buffer, and the reader holds one more.
    """

    def __init__(
        self,
        vault: Vault,
        archive: Archive,
        manifest: Manifest,
        identity: X25519Identity,
        recognised: Recognised,
    ) -> None:
        self._recognised = recognised
        self._vault = vault
        self._archive = archive
        self._manifest = manifest
        self._identity = identity
        largest = max((s.size for s in manifest.segments), default=0)
        if not largest <= manifest.segment_size <= LARGEST_SEGMENT:
            path = archive.path(MANIFEST_OBJECT)
            raise DamagedError(f"{path} does not describe this archive")
        self.workers = worker_count(manifest.segment_size)
        self._buffers: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()
        for _ in range(min(self.workers + 1, len(manifest.segments))):
            self._buffers.put(make_buffer(largest))

    def open(self, index: int) -> memoryview:
        """Return a segment's plaintext, in a buffer that is to be taken back.

        Raises:
            DamagedError: as ``segments``.
            StoreError: as ``segments``.
        """
        plain = memoryview(self._buffers.get())[: self._manifest.segments[index].size]
        part = (self._vault, self._archive, self._manifest)
        open_segment(*part, index, self._identity, self._recognised, plain)
        return plain

    def take_back(self, plain: memoryview) -> None:
        """Use a segment's memory again."""
        buffer = plain.obj
        assert isinstance(buffer, mmap.mmap)
        self._buffers.put(buffer)


def open_segment(
    vault: Vault,
    archive: Archive,
    manifest: Manifest,
    index: int,
    identity: X25519Identity,
    recognised: Recognised,
    plain: memoryview,
) -> None:
    """Fill ``plain`` with a segment's plaintext, after every check.

    Args:
        vault: where the archive lies.
        archive: judged and trusted.
        manifest: its manifest.
        index: of the segment.
        identity: the vault identity.
        recognised: what was hashed here before; may be empty.
        plain: writable, of the segment's size.

    Raises:
        DamagedError: the segment is not what was sealed.
        StoreError: it cannot be fetched.
    """
    wanted = manifest.segments[index]
    path = archive.path(segment_name(index))
    try:
        sealed = vault.store.get(path, sealed_bound(manifest.segment_size))
    except NotFoundError:
        raise DamagedError(f"{path} is missing") from None
    if recognised.sha256(path, sealed) != wanted.sha256:
        raise DamagedError(f"{path} was altered: its SHA-256 is not the signed one")
    try:
        decompress_into(decrypt_chunks(sealed, [identity]), plain)
    except StandfastError as error:
        raise DamagedError(f"{path}: {error.message}") from None
    key = bytes.fromhex(manifest.fingerprints.key)
    if fingerprint(key, index, plain) != wanted.fingerprint:
        raise DamagedError(f"{path}: its plaintext is not what was sent")
