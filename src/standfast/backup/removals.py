"""Signed removals: how a vault says that archives were taken away on purpose.

An archive that is gone looks the same whether a retention policy or a thief took it.
So whoever prunes states it first, under a key of its own: one folder a statement,

    removals/KEYID-NUMBER/removal.json
    removals/KEYID-NUMBER/removal.json.minisig

which names each archive with the digest of its sums. The document holds the digest
of the one before it, so that none can be hidden or put in between. Pure.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from standfast.backup.model import (
    FORMAT,
    REMOVAL_NAME,
    REMOVAL_OBJECT,
    REMOVAL_SIGNATURE,
    REMOVALS,
    decode,
    encode,
    is_archive_id,
)
from standfast.backup.proof import (
    DAMAGE,
    DISTRUST,
    LEFTOVER,
    Finding,
    signed_comment,
)
from standfast.backup.sums import NONE
from standfast.errors import DamagedError, NotTrustedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from standfast.backup.minisign import PublicKey, SecretKey
    from standfast.backup.proof import Trust
    from standfast.backup.state import Revoked
    from standfast.backup.stores import Entry

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """One archive that was taken away.

    Attributes:
        archive: its id.
        sums: SHA-256 of its ``SHA256SUMS``.
        signer: the key that had signed it; empty where nobody trusted had.
        sequence: its number in that signer's sequence; 0 where there is none.
        why: for people.
    """

    archive: str
    sums: str
    signer: str
    sequence: int
    why: str


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """``removal.json``: what one run took away.

    Attributes:
        format: 1.
        vault: the vault's id.
        number: 1, 2, 3... over one pruner's removals in one vault.
        previous: SHA-256 of the ``removal.json`` before this one, or ``none``.
        time: the pruner's clock, Unix seconds.
        removed: the archives, in the order in which they go.
    """

    format: int
    vault: str
    number: int
    previous: str
    time: int
    removed: list[Removed]

    def statement(self) -> str:
        """Return the trusted comment of its signature."""
        return (
            f"standfast removal format={FORMAT} vault={self.vault}"
            f" number={self.number} previous={self.previous} time={self.time}"
        )


@dataclass(frozen=True)
class Head:
    """The last of one signer's statements: its number and its digest."""

    number: int
    digest: str


@dataclass
class Removals:
    """All removals that a trusted pruner has stated.

    Attributes:
        gone: archive id -> all that was stated of it.
        heads: pruner's key -> its last removal.
        digests: pruner's key -> number -> digest, of all that count.
        findings: what is wrong with the statements themselves.
        unsigned: folders of statements that were never signed.
    """

    gone: dict[str, list[Removed]] = field(default_factory=dict)
    heads: dict[str, Head] = field(default_factory=dict)
    digests: dict[str, dict[int, str]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    unsigned: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Stated:
    folder: str
    key: str
    digest: str
    removal: Removal


def removal_folder(key_id: str, number: int) -> str:
    """Return where a removal lies, relative to the vault."""
    return f"{REMOVALS}/{key_id}-{number:08}"


def removal_names(entries: Iterable[Entry]) -> list[str]:
    """Return the objects of removals, all of which a survey has to read."""
    return [
        entry.name
        for entry in entries
        if entry.kind == "file" and REMOVAL_NAME.fullmatch(entry.name)
    ]


def seal_removal(removal: Removal, key: SecretKey) -> tuple[bytes, bytes]:
    """Return the document and its signature."""
    document = encode(removal)
    return document, key.sign(document, removal.statement()).encode()


def digest_of(document: bytes) -> str:
    """Return what the next removal names as ``previous``."""
    return hashlib.sha256(document).hexdigest()


def judge_removals(
    entries: Sequence[Entry], small: Mapping[str, bytes], trust: Trust
) -> Removals:
    """Return what trusted pruners have stated.

    Args:
        entries: everything that lies in the vault.
        small: contents of the removals' objects (names relative to the vault).
        trust: whose word counts.
    """
    result = Removals()
    names = set(removal_names(entries))
    stated: dict[str, list[_Stated]] = {}
    for folder in sorted({name.rpartition("/")[0] for name in names}):
        if f"{folder}/{REMOVAL_SIGNATURE}" not in names:
            text = "left by an interrupted prune: it was never signed"
            result.findings.append(Finding(folder, LEFTOVER, text))
            result.unsigned.append(folder)
            continue
        found = _read(folder, small, trust)
        if isinstance(found, Finding):
            result.findings.append(found)
        else:
            stated.setdefault(found.key, []).append(found)
    for key, statements in stated.items():
        _chain(key, sorted(statements, key=lambda s: s.removal.number), trust, result)
    _compare_heads(trust, result)
    return result


def _read(folder: str, small: Mapping[str, bytes], trust: Trust) -> _Stated | Finding:
    """Return one removal, or why it does not count."""
    name = f"{folder}/{REMOVAL_SIGNATURE}"
    document = small.get(f"{folder}/{REMOVAL_OBJECT}")
    signature = small.get(name)
    if document is None or signature is None:
        return Finding(folder, DAMAGE, "the removal cannot be read")
    try:
        comment, key = signed_comment(
            document, signature, trust.pruners, trust.verified
        )
        removal = decode(document, Removal, f"{folder}/{REMOVAL_OBJECT}")
    except DamagedError as error:
        return Finding(name, DAMAGE, error.message)
    except NotTrustedError as error:
        senders = {sender.key_id for sender in trust.keys}
        signer = folder.rpartition("/")[2].partition("-")[0]
        text = f"a removal {error.message}"
        if signer in senders:
            text = "a removal by a sender's key, which may not remove anything"
        return Finding(name, DISTRUST, text)
    text = _trouble(folder, document, comment, removal, key)
    if text:
        return Finding(name, DAMAGE, text)
    if removal.vault != trust.vault:
        return Finding(name, DISTRUST, "signed for another vault")
    return _Stated(folder, key.text, digest_of(document), removal)


def _trouble(
    folder: str, document: bytes, comment: str, removal: Removal, key: PublicKey
) -> str:
    """Return why a well signed document is no removal that belongs here."""
    if removal.statement() != comment or encode(removal) != document:
        return "its signature does not state what it says"
    if not _is_sound(removal):
        return "it says what no removal can say"
    if folder != removal_folder(key.key_id, removal.number):
        return f"this is removal {removal.number}, copied or renamed"
    return ""


def _is_sound(removal: Removal) -> bool:
    return (
        removal.number > 0
        and (removal.previous == NONE or bool(_DIGEST.fullmatch(removal.previous)))
        and all(is_archive_id(gone.archive) for gone in removal.removed)
        and all(_DIGEST.fullmatch(gone.sums) for gone in removal.removed)
    )


def _chain(
    key: str, statements: Sequence[_Stated], trust: Trust, result: Removals
) -> None:
    """Take one pruner's removals in order; each must name the one before it."""
    revoked = trust.revoked.get(key)
    if revoked is not None:
        statements = _before(revoked, statements, result)
    last = NONE
    for stated in statements:
        if stated.removal.previous != last:
            text = "what its pruner stated before it is missing or was replaced"
            result.findings.append(Finding(stated.folder, DAMAGE, text))
        last = stated.digest
        result.heads[key] = Head(stated.removal.number, stated.digest)
        result.digests.setdefault(key, {})[stated.removal.number] = stated.digest
        for gone in stated.removal.removed:
            result.gone.setdefault(gone.archive, []).append(gone)


def _before(
    revoked: Revoked, statements: Sequence[_Stated], result: Removals
) -> list[_Stated]:
    """Return what a revoked pruner had stated when it was revoked.

    A thief of its key could sign other statements under old numbers; but the last
    one's digest is on record here, and each holds the digest of the one before.
    """
    counting: list[_Stated] = []
    wanted = revoked.digest
    for stated in reversed(statements):
        if stated.digest == wanted:
            counting.append(stated)
            wanted = stated.removal.previous
        else:
            text = f"by a pruner that is revoked after number {revoked.after}"
            result.findings.append(Finding(stated.folder, DISTRUST, text))
    return counting[::-1]


def _compare_heads(trust: Trust, result: Removals) -> None:
    """Hold what is there against what this machine has seen of each pruner."""
    for key, seen in trust.seen_removals.items():
        if result.digests.get(key, {}).get(seen.number) != seen.digest:
            text = f"missing: removal number {seen.number} was seen from here"
            result.findings.append(Finding(REMOVALS, DAMAGE, text))
