"""Proving a vault: by its listing, by hashes made where it lies, or by opening it.

``listing``  signatures, names, counts and byte totals; reads no object
``hash``     every object's SHA-256 against the signed one; needs no key
``decrypt``  every byte decrypted, decompressed and, for send streams, checked
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from standfast.backup.browse.stored import open_outline, stored_reader
from standfast.backup.model import (
    LARGEST_SUMS,
    SIGNATURE,
    SUMS,
)
from standfast.backup.opening import Recognised, read_manifest, segments
from standfast.backup.proof import (
    COMMITTED,
    DAMAGE,
    DISTRUST,
    GONE,
    REFUSED,
    UNFINISHED,
    Archive,
    Finding,
    Survey,
    Trust,
    check_signature,
    compare_digests,
    compare_sums,
    judge_root,
)
from standfast.backup.send import Guard, stream_document
from standfast.backup.state import Root
from standfast.errors import (
    DamagedError,
    ExitStatus,
    NotTrustedError,
    StreamError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from standfast.backup.model import Manifest
    from standfast.backup.recipients import (
        X25519Identity,
    )
    from standfast.backup.vault import Vault


class Level(StrEnum):
    """How deep a verification goes."""

    LISTING = "listing"
    HASH = "hash"
    DECRYPT = "decrypt"


@dataclass(frozen=True)
class Checked:
    """An archive after verification, with its manifest where it was opened."""

    archive: Archive
    manifest: Manifest | None = None


@dataclass
class Report:
    """What a verification found."""

    level: Level
    checked: list[Checked] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    survey: Survey = field(default_factory=Survey)

    def all_findings(self) -> list[Finding]:
        """Return everything found, the vault's own first."""
        return [*self.findings, *(f for c in self.checked for f in c.archive.findings)]

    def status(self) -> ExitStatus:
        """Return the exit status: distrust outweighs damage."""
        grades = {finding.grade for finding in self.all_findings()}
        if DISTRUST in grades:
            return ExitStatus.NOT_TRUSTED
        return ExitStatus.DAMAGED if DAMAGE in grades else ExitStatus.DONE


@dataclass(frozen=True)
class Verifier:
    """How to verify.

    Attributes:
        level: how deep.
        digests: hashes objects by name: the store's own, or those of ``recognised``,
            which fetches them.
        identity: the vault identity, for level ``decrypt``.
        progress: told of (plaintext, stored) bytes done; here always stored ones.
        expect: told once how many stored bytes will be worked through.
        recognised: what was hashed here already.
    """

    level: Level
    digests: Callable[[Sequence[str]], Iterator[tuple[str, str]]]
    identity: X25519Identity | None
    progress: Callable[[int, int], None]
    expect: Callable[[int], None] = lambda _: None
    recognised: Recognised = field(default_factory=Recognised)


def verify(
    vault: Vault, trust: Trust, wanted: Sequence[str], verifier: Verifier
) -> Report:
    """Verify a vault, or some of its archives.

    Args:
        vault: the vault.
        trust: whose signatures count.
        wanted: ids or beginnings of ids; none means all, and the vault's own files.
        verifier: how.

    Raises:
        UsageError: no archive fits one of ``wanted``.
        StoreError: the store failed.
    """
    survey, _ = vault.survey(trust)
    report = Report(verifier.level, survey=survey)
    if wanted:
        chosen = [_find(survey.archives, prefix) for prefix in wanted]
        chosen = [_must_be_committed(archive) for archive in chosen]
    else:
        chosen = survey.archives
        report.findings += survey.findings
        named = {finding.object for finding in survey.findings}
        root = root_findings(vault, trust, verifier)
        report.findings += [f for f in root if f.object not in named]
    passes = {Level.LISTING: 0, Level.HASH: 1, Level.DECRYPT: 2}[verifier.level]
    verifier.expect(passes * sum(archive.stored for archive in chosen))
    for archive in chosen:
        report.checked.append(_verify_archive(vault, archive, verifier))
    return report


def root_findings(vault: Vault, trust: Trust, verifier: Verifier) -> list[Finding]:
    """Return what is wrong with the vault's own files."""
    small = vault.store.get_small([SUMS, SIGNATURE], LARGEST_SUMS)
    if len(small) < 2:  # noqa: PLR2004 - missing, too large, or not readable
        absent = {SUMS, SIGNATURE} - small.keys()
        return [Finding(n, DAMAGE, "cannot be read") for n in sorted(absent)]
    sums, findings = judge_root(small, trust)
    if findings or verifier.level is Level.LISTING:
        return findings
    return compare_sums(sums, dict(verifier.digests(sorted(sums))), "")


def read_root(vault: Vault, trust: Trust) -> tuple[Root | None, list[Finding]]:
    """Return which version of the vault's own files lies there, and what is wrong.

    Only their sums and signature are read. None where those are not good.
    """
    small = vault.store.get_small([SUMS, SIGNATURE], LARGEST_SUMS)
    if len(small) < 2:  # noqa: PLR2004 - as above
        return None, []
    sums, findings = judge_root(small, trust)
    if not sums:
        return None, []
    keys = trust.keys | trust.owners
    statement, _ = check_signature(small[SUMS], small[SIGNATURE], keys, trust.verified)
    digest = hashlib.sha256(small[SUMS]).hexdigest()
    return Root(number=statement.sequence, sums=digest), findings


def remember_root(vault: Vault, root: Root | None) -> None:
    """Keep the newest of the vault's own files in mind, on a machine that knows it."""
    record = vault.record
    if record is None or root is None:
        return
    if record.root is not None and record.root.number >= root.number:
        return
    vault.state.save_record(msgspec.structs.replace(record, root=root))


def _verify_archive(vault: Vault, archive: Archive, verifier: Verifier) -> Checked:
    if archive.standing in {UNFINISHED, GONE} or not archive.sums:
        return Checked(archive)
    if verifier.level is Level.LISTING:
        return Checked(archive)
    archive = check_hashes(archive, verifier)
    if verifier.level is Level.HASH or archive.standing != COMMITTED:
        return Checked(archive)
    assert verifier.identity is not None
    try:
        manifest = read_manifest(vault, archive, verifier.identity)
        check_contents(vault, archive, manifest, verifier)
    except (DamagedError, StreamError) as error:
        finding = Finding(archive.path(""), DAMAGE, error.message)
        return Checked(_with(archive, [finding]))
    return Checked(archive, manifest)


def check_hashes(archive: Archive, verifier: Verifier) -> Archive:
    """Return an archive with what its objects' digests say of it."""
    names = [archive.path(name) for name in sorted(archive.sums)]
    found: dict[str, str] = {}
    for name, digest in verifier.digests(names):
        found[name] = digest
        verifier.progress(0, archive.sizes.get(name.rpartition("/")[2], 0))
    return _with(archive, compare_digests(archive, found))


def check_contents(
    vault: Vault, archive: Archive, manifest: Manifest, verifier: Verifier
) -> None:
    """Read an archive to its end through every check, writing nothing.

    Raises:
        DamagedError: a segment is not what was sealed, or the stream is not the
            one that the manifest describes.
    """
    assert verifier.identity is not None
    guard = Guard(None)
    known = verifier.recognised
    opened = segments(vault, archive, manifest, verifier.identity, known)
    for plain, segment in zip(opened, manifest.segments, strict=True):
        guard.see(plain)
        verifier.progress(0, segment.object_size)
    compare_stream(guard, manifest)
    if manifest.index is not None:
        read = stored_reader(vault, archive, manifest.index)
        open_outline(manifest.index, read, verifier.identity).check()
        verifier.progress(0, manifest.index.object_size)


def compare_stream(guard: Guard, manifest: Manifest) -> None:
    """Check at the end that a stream is whole and the manifest's.

    Raises:
        DamagedError: it is not.
    """
    try:
        facts = guard.finish()
    except StreamError as error:
        raise DamagedError(f"{manifest.name}: {error.message}") from None
    found = None if facts is None else stream_document(facts)
    if found != manifest.stream:
        raise DamagedError(f"{manifest.name} is not the stream that was sent")


def refuse(archive: Archive) -> Archive:
    """Return an archive that is whole and trusted.

    Raises:
        DamagedError: it is damaged.
        NotTrustedError: nobody trusted has signed it.
    """
    if archive.standing == COMMITTED:
        return archive
    worst = [f for f in archive.findings if f.grade == DISTRUST]
    worst = worst or list(archive.findings)
    text = f"{worst[0].object}: {worst[0].text}" if worst else archive.id
    if archive.standing == UNFINISHED or (worst and worst[0].grade == DISTRUST):
        raise NotTrustedError(
            text, hint="if the recovery kit names that signer, pass --signer KEY"
        )
    raise DamagedError(
        text, hint="`standfast backup verify VAULT` shows all that is wrong"
    )


def _with(archive: Archive, findings: Sequence[Finding]) -> Archive:
    if not findings:
        return archive
    return replace(archive, standing=REFUSED, findings=(*archive.findings, *findings))


def _find(archives: Sequence[Archive], prefix: str) -> Archive:
    fitting = [archive for archive in archives if archive.id.startswith(prefix)]
    if len(fitting) != 1:
        count = len(fitting) or "no"
        raise UsageError(
            f"{count} archives begin with {prefix!r}",
            hint="`standfast backup list VAULT` shows their ids",
        )
    return fitting[0]


def _must_be_committed(archive: Archive) -> Archive:
    """Asked for by name, an archive without a signature is a failure."""
    if archive.standing != UNFINISHED:
        return archive
    finding = Finding(archive.path(SIGNATURE), DISTRUST, "missing")
    return replace(archive, standing=REFUSED, findings=(finding,))
