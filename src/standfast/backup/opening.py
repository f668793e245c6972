"""Reading a vault back with a key: identity, manifest, segments.

Nothing is believed because it lies in the vault. The manifest counts because a
trusted signature covers its digest; a segment's bytes count when their SHA-256 is
the signed one, they decrypt, every zstd frame ends with its checksum, and size and
fingerprint are the manifest's.
"""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from standfast.backup.age import AgeError, decrypt
from standfast.backup.compress import decompress
from standfast.backup.model import (
    IDENTITY_OBJECT,
    LARGEST_DOCUMENT,
    LARGEST_MANIFEST,
    MANIFEST_OBJECT,
    Manifest,
    decode,
    segment_name,
)
from standfast.backup.recipients import X25519Identity, parse_identities
from standfast.backup.sealing import fingerprint, sealed_bound, worker_count
from standfast.errors import (
    DamagedError,
    NoIdentityError,
    NotFoundError,
    StandfastError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from standfast.backup.age import Identity
    from standfast.backup.proof import Archive
    from standfast.backup.vault import Vault


def open_vault_identity(vault: Vault, identities: Sequence[Identity]) -> X25519Identity:
    """Return the vault identity, opened with an owner's key.

    The vault identity itself is accepted too, as ``age -d identity.age`` gives it.

    Raises:
        NoIdentityError: none of the identities opens it.
        DamagedError: ``identity.age`` is missing, damaged, or of another vault.
    """
    recipient = vault.record.recipient if vault.record else vault.info.recipient
    for identity in identities:
        if isinstance(identity, X25519Identity) and (
            identity.recipient.text == recipient
        ):
            return identity
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
    for identity in parse_identities(opened, IDENTITY_OBJECT, None):
        if isinstance(identity, X25519Identity) and (
            identity.recipient.text == recipient
        ):
            return identity
    raise DamagedError(f"{IDENTITY_OBJECT} holds the identity of another vault")


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
    vault: Vault, archive: Archive, manifest: Manifest, identity: X25519Identity
) -> Iterator[bytes]:
    """Yield the plaintext of each segment in order, a few fetched ahead.

    Raises:
        DamagedError: a segment is not what was sealed; nothing of it is yielded.
        StoreError: a segment cannot be fetched.
    """
    count = len(manifest.segments)
    workers = worker_count(manifest.segment_size)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="open")
    ahead: deque[Future[bytes]] = deque()
    try:
        for index in range(count + workers):
            if index < count:
                task = (vault, archive, manifest, identity, index)
                ahead.append(pool.submit(_segment, *task))
            if index >= workers or index >= count:
                if not ahead:
                    break
                yield ahead.popleft().result()
    except BaseException:
        # Workers may be waiting for a far end that never answers.
        vault.store.close()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _segment(
    vault: Vault,
    archive: Archive,
    manifest: Manifest,
    identity: X25519Identity,
    index: int,
) -> bytes:
    wanted = manifest.segments[index]
    path = archive.path(segment_name(index))
    try:
        sealed = vault.store.get(path, sealed_bound(manifest.segment_size))
    except NotFoundError:
        raise DamagedError(f"{path} is missing") from None
    if hashlib.sha256(sealed).hexdigest() != wanted.sha256:
        raise DamagedError(f"{path} was altered: its SHA-256 is not the signed one")
    try:
        plain = decompress(decrypt(sealed, [identity]), wanted.size)
    except StandfastError as error:
        raise DamagedError(f"{path}: {error.message}") from None
    key = bytes.fromhex(manifest.fingerprints.key)
    if fingerprint(key, index, plain) != wanted.fingerprint:
        raise DamagedError(f"{path}: its plaintext is not what was sent")
    return plain
