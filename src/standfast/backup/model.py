"""The documents of a vault (format 1) and the names inside it.

Every document is JSON, written canonically (sorted keys, two-space indent, one
final line feed) so that equal contents are equal bytes. Readers ignore keys they do
not know, refuse wrong types with the path of the value, and refuse a format number
that is not theirs. DESIGN.md describes each field.
"""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import msgspec

from standfast.errors import DamagedError
from standfast.units import MIB

FORMAT = 1
VAULT_DOCUMENT = "vault.json"
RECOVERY_TEXT = "RECOVER.txt"
IDENTITY_OBJECT = "identity.age"
SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.minisig"
MANIFEST_OBJECT = "manifest.json.age"
INDEX_OBJECT = "index.age"
ARCHIVES = "archives"
REMOVALS = "removals"
REMOVAL_OBJECT = "removal.json"
REMOVAL_SIGNATURE = f"{REMOVAL_OBJECT}.minisig"
ROOT_OBJECTS = (VAULT_DOCUMENT, RECOVERY_TEXT, IDENTITY_OBJECT)
PART_PREFIX = ".part-"

DEFAULT_SEGMENT_SIZE = 32 * MIB
SMALLEST_SEGMENT = 64 * 1024
LARGEST_SEGMENT = 256 * MIB

# The largest each plain document may be before we refuse to read it: a vault may
# hold anything, and a reader must not be made to swallow it.
LARGEST_DOCUMENT = 64 * 1024
LARGEST_SUMS = 64 * MIB
LARGEST_MANIFEST = 256 * MIB

_ARCHIVE_ID = re.compile(r"[0-9a-f]{32}")
_SEGMENT = re.compile(r"([0-9]{8,})\.zst\.age")
REMOVAL_FOLDER = re.compile(rf"{REMOVALS}/([0-9A-F]{{16}})-([0-9]{{8,}})")
REMOVAL_NAME = re.compile(rf"{REMOVAL_FOLDER.pattern}(/removal\.json(\.minisig)?)?")
_PART = re.compile(re.escape(PART_PREFIX) + r"[0-9A-Za-z]{16}")

_T = TypeVar("_T")


class VaultInfo(msgspec.Struct, frozen=True, kw_only=True):
    """``vault.json``: what a sender must know, and nothing secret.

    Attributes:
        format: 1.
        vault: the vault's id, 32 lower-case hex digits, random.
        recipient: the vault recipient, ``age1...``.
        segment_size: plaintext bytes of every segment but the last.
    """

    format: int
    vault: str
    recipient: str
    segment_size: int


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """One segment as the manifest lists it.

    Attributes:
        size: plaintext bytes.
        fingerprint: AES-256-GMAC of the plaintext, 32 hex digits; see ``Manifest``.
        object_size: bytes of the sealed object.
        sha256: of the sealed object, as in ``SHA256SUMS``.
    """

    size: int
    fingerprint: str
    object_size: int
    sha256: str


class Fingerprints(msgspec.Struct, frozen=True, kw_only=True):
    """How plaintext fingerprints are made.

    Attributes:
        algorithm: ``aes-256-gmac``; the nonce is the segment's index, 12 bytes
            big-endian.
        key: 64 hex digits, random for each archive.
    """

    algorithm: str
    key: str


class Substream(msgspec.Struct, frozen=True, kw_only=True):
    """One send stream inside an archive, from its own BEGIN record.

    GUIDs are decimal text: they are 64 bits wide, and JSON readers keep 53.
    """

    name: str
    guid: str
    from_guid: str
    kind: str


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """What the send stream says of itself; its records were all checked."""

    name: str
    guid: str
    from_guid: str
    compound: bool
    big_endian: bool
    features: list[str]
    substreams: list[Substream]


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """Where the index of a send stream begins, and what it must be.

    Attributes:
        offset: of its table in the plaintext of ``index.age``.
        size: bytes of the table.
        sha256: of these bytes; the table has the digest of all the rest.
        object_size: bytes of ``index.age``.
        object_sha256: of ``index.age``, as in ``SHA256SUMS``.
    """

    offset: int
    size: int
    sha256: str
    object_size: int
    object_sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """``manifest.json``: all that there is to know of an archive.

    Attributes:
        format: 1.
        vault: the vault's id.
        archive: the archive's id.
        name: ``DATASET@SNAPSHOT``, or the name given for a stream of bytes.
        created: UTC, ``2026-11-22 14:05:09Z``.
        host: the sending machine's name.
        command: the producer's exact arguments; empty for standard input.
        versions: of standfast, Python and the producer.
        size: plaintext bytes in all.
        segment_size: plaintext bytes of every segment but the last.
        level: zstd compression level.
        stream: facts of the send stream, or None for other bytes.
        fingerprints: how the segments' plaintext is fingerprinted.
        segments: in order.
        index: of a send stream, where it was made.
    """

    format: int
    vault: str
    archive: str
    name: str
    created: str
    host: str
    command: list[str]
    versions: dict[str, str]
    size: int
    segment_size: int
    level: int
    stream: Stream | None
    fingerprints: Fingerprints
    segments: list[Segment]
    index: Index | None = None


def encode(document: msgspec.Struct) -> bytes:
    """Return a document's canonical bytes."""
    plain: Any = msgspec.to_builtins(document)
    return (
        json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=True).encode() + b"\n"
    )


def decode(data: bytes, kind: type[_T], source: str) -> _T:
    """Return the document in ``data``.

    Raises:
        DamagedError: it is no such document, or of another format; the message
            names ``source`` and the value's path.
    """
    try:
        document = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedError(f"{source} is not readable: {error}") from None
    found = getattr(document, "format", FORMAT)
    if found != FORMAT:
        raise DamagedError(
            f"{source} has format {found}, this standfast reads format {FORMAT}",
            hint="a newer standfast may read it",
        )
    return document


def is_archive_id(text: str) -> bool:
    """Return whether ``text`` is a whole archive or vault id."""
    return _ARCHIVE_ID.fullmatch(text) is not None


def segment_name(index: int) -> str:
    """Return the object name of segment ``index``, counted from 0."""
    return f"{index:08}.zst.age"


def segment_index(name: str) -> int | None:
    """Return the index that an object name stands for, or None."""
    match = _SEGMENT.fullmatch(name)
    if match is None or segment_name(int(match.group(1))) != name:
        return None
    return int(match.group(1))


def is_part(name: str) -> bool:
    """Return whether an object's name is that of a transfer under way, or cut."""
    return _PART.fullmatch(name.rpartition("/")[2]) is not None


def archive_folder(archive: str) -> str:
    """Return where an archive's objects lie, relative to the vault."""
    return f"{ARCHIVES}/{archive}"


def check_info(info: VaultInfo, source: str) -> VaultInfo:
    """Return ``info`` if its values can be those of a vault.

    Raises:
        DamagedError: they cannot.
    """
    if not is_archive_id(info.vault):
        raise DamagedError(f"{source} names no vault id")
    if not SMALLEST_SEGMENT <= info.segment_size <= LARGEST_SEGMENT:
        raise DamagedError(f"{source} has an impossible segment size")
    return info
