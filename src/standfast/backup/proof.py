"""What signatures, listings and digests prove of a vault, without any key.

Pure: facts in, findings out. Four kinds of archive come out of ``judge_archive``:

``committed``  a trusted signature covers its sums
``unfinished`` no signature, and nothing says that there ever was one: what an
               interrupted send leaves; never a backup
``refused``    a signature that is missing where one must be, wrong, or by a key
               that nobody pinned; or damage to what is signed
``removed``    a trusted pruner has stated that it is gone; what lies there is left
               over, or was put back

A finding is named by its object. Damage (exit status 13) and distrust (14) are told
apart: damage is what a fault does to what a trusted key signed here, distrust is
what anyone could have written.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from standfast.backup.minisign import DEFAULT_UNTRUSTED, PublicKey, Signature
from standfast.backup.model import (
    ARCHIVES,
    INDEX_OBJECT,
    MANIFEST_OBJECT,
    REMOVAL_NAME,
    REMOVALS,
    ROOT_OBJECTS,
    SIGNATURE,
    SUMS,
    archive_folder,
    is_archive_id,
    is_part,
    segment_index,
)
from standfast.backup.sums import NONE, Statement, parse_statement, parse_sums
from standfast.errors import DamagedError, NotTrustedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from standfast.backup.removals import Head, Removals, Removed
    from standfast.backup.state import Ledger, Revoked, Root, Sent
    from standfast.backup.stores import Entry

DAMAGE = "damage"
DISTRUST = "distrust"
LEFTOVER = "leftover"

COMMITTED = "committed"
UNFINISHED = "unfinished"
REFUSED = "refused"
GONE = "removed"


@dataclass(frozen=True)
class Finding:
    """Something about one object that a person must know.

    Attributes:
        object: its name relative to the vault.
        grade: DAMAGE, DISTRUST or LEFTOVER (harmless, can be cleaned).
        text: what is wrong with it.
    """

    object: str
    grade: str
    text: str


@dataclass(frozen=True)
class Trust:
    """Whose signatures count, for which vault.

    Attributes:
        vault: the id that signed statements must name.
        keys: the pinned signing keys of senders.
        ledger: what this machine sent itself.
        remembers: whether the ledger can be relied on for what is missing.
        verified: what ``signed_comment`` has found good, here or in an earlier run;
            it adds to it.
        pruners: the pinned keys that may state removals.
        owners: the pinned keys that may sign the vault's own files; senders may too.
        revoked: key -> what of it still counts.
        seen: archives that this machine has seen whole before.
        seen_removals: pruner's key -> the last removal that was seen of it.
        root: the newest of the vault's own files that was seen.
    """

    vault: str
    keys: frozenset[PublicKey]
    ledger: Ledger
    remembers: bool
    verified: set[bytes] = field(default_factory=set)
    pruners: frozenset[PublicKey] = frozenset()
    owners: frozenset[PublicKey] = frozenset()
    revoked: Mapping[str, Revoked] = field(default_factory=dict)
    seen: Mapping[str, Sent] = field(default_factory=dict)
    seen_removals: Mapping[str, Head] = field(default_factory=dict)
    root: Root | None = None

    def known(self, archive: str) -> Sent | None:
        """Return what this machine knows of an archive, sent from here or seen."""
        return self.ledger.sent.get(archive) or self.seen.get(archive)


@dataclass(frozen=True)
class Archive:
    """One folder below ``archives/`` and what is known of it."""

    id: str
    standing: str
    statement: Statement | None
    signer: str
    sums: Mapping[str, str]
    sums_digest: str
    sizes: Mapping[str, int]
    findings: tuple[Finding, ...] = ()

    @property
    def stored(self) -> int:
        """Bytes of all its objects in the store."""
        return sum(self.sizes.values())

    def path(self, name: str) -> str:
        """Return an object's name relative to the vault."""
        return f"{archive_folder(self.id)}/{name}"


@dataclass
class Survey:
    """All of a vault, as far as it can be judged from a listing and small files.

    Attributes:
        archives: by id.
        findings: what is wrong with the vault as a whole.
        alarms: those of them that say that something was there and is gone.
        removals: what trusted pruners have stated.
    """

    archives: list[Archive] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    alarms: list[Finding] = field(default_factory=list)
    removals: Removals | None = None

    def all_findings(self) -> list[Finding]:
        """Return the vault's own findings and every archive's."""
        return [*self.findings, *(f for a in self.archives for f in a.findings)]


def signed_names(entries: Iterable[Entry]) -> list[str]:
    """Return the small objects that a survey needs to read."""
    wanted = {SUMS, SIGNATURE}
    return [
        e.name
        for e in entries
        if e.kind == "file"
        and (e.name in wanted or e.name.rpartition("/")[2] in wanted)
        and (e.name in wanted or _archive_of(e.name))
    ]


def survey(
    entries: Iterable[Entry],
    small: Mapping[str, bytes],
    trust: Trust,
    removals: Removals | None = None,
) -> Survey:
    """Judge a vault by its listing and the small objects that were read.

    Args:
        entries: everything that lies in the vault.
        small: contents of the sums and signatures (names relative to the vault).
        trust: whose word counts.
        removals: what trusted pruners have stated.
    """
    result = Survey(removals=removals)
    gone = removals.gone if removals is not None else {}
    sizes: dict[str, dict[str, int]] = {}
    for entry in entries:
        archive = _archive_of(entry.name)
        if archive:
            sizes.setdefault(archive, {})
        inside = entry.name.removeprefix(f"{archive_folder(archive)}/")
        if archive and entry.kind == "folder" and inside == archive_folder(archive):
            continue
        if archive and entry.kind == "file" and "/" not in inside:
            sizes[archive][inside] = entry.size
        else:
            result.findings += _foreign(entry)
    result.findings += _missing_root(entries)
    for archive, objects in sorted(sizes.items()):
        judged = judge_archive(archive, objects, small, trust)
        result.archives.append(_unless_gone(judged, gone.get(archive, [])))
    if removals is not None:
        result.findings += removals.findings
        result.alarms += [f for f in removals.findings if f.grade != LEFTOVER]
    vanished = _vanished(sizes, trust, gone)
    result.findings += vanished
    result.alarms += vanished
    result.findings += _broken_chains(result.archives, trust, gone)
    result.findings += _baseless(result.archives)
    return result


def judge_archive(
    archive: str, sizes: Mapping[str, int], small: Mapping[str, bytes], trust: Trust
) -> Archive:
    """Judge one archive by its listing, sums and signature."""
    known = trust.known(archive)
    folder = archive_folder(archive)
    sums_data = small.get(f"{folder}/{SUMS}")
    signature_data = small.get(f"{folder}/{SIGNATURE}")

    def verdict(
        standing: str,
        findings: Iterable[Finding],
        statement: Statement | None = None,
        signer: str = "",
        sums: Mapping[str, str] | None = None,
    ) -> Archive:
        return Archive(
            id=archive, standing=standing, statement=statement, signer=signer,
            sums=sums or {}, sums_digest=hashlib.sha256(sums_data or b"").hexdigest(),
            sizes=sizes, findings=tuple(findings),
        )  # fmt: skip

    if SIGNATURE not in sizes:
        return verdict(*_without_signature(folder, sizes, known, trust))
    try:
        statement, signer = check_signature(
            _present(sums_data), _present(signature_data), trust.keys, trust.verified
        )
        sums = parse_sums(_present(sums_data), f"{folder}/{SUMS}")
    except (DamagedError, NotTrustedError) as error:
        return verdict(REFUSED, [_signature_trouble(folder, error, known)])
    findings = [*_statement_trouble(folder, statement, archive, trust)]
    digest = hashlib.sha256(_present(sums_data)).hexdigest()
    if not findings:
        findings += _memory_trouble(folder, archive, digest, known)
        findings += _revoked_trouble(
            folder, statement, digest, trust.revoked.get(signer)
        )
    if not findings:
        findings += _listing_trouble(folder, sizes, sums, statement)
    standing = COMMITTED if not _spoils(findings) else REFUSED
    return verdict(standing, findings, statement, signer, sums)


def check_signature(
    sums: bytes,
    signature_file: bytes,
    keys: frozenset[PublicKey],
    verified: set[bytes],
) -> tuple[Statement, str]:
    """Return what a trusted key states of ``sums``, and that key.

    Raises:
        DamagedError: the signature file is no such file.
        NotTrustedError: it is by a key that is not pinned, or it does not fit.
    """
    comment, key = signed_comment(sums, signature_file, keys, verified)
    return parse_statement(comment, "its signature"), key.text


def signed_comment(
    signed: bytes,
    signature_file: bytes,
    keys: frozenset[PublicKey],
    verified: set[bytes],
) -> tuple[str, PublicKey]:
    """Return the trusted comment of a signature by a trusted key, and that key.

    A signature that was verified before, by this key, over these very bytes, is not
    verified again: of all that a survey does this takes the longest.

    Raises:
        DamagedError: the signature file is no such file.
        NotTrustedError: it is by a key that is not pinned, or it does not fit.
    """
    signature = Signature.parse(signature_file)
    # Ours are prehashed and carry a fixed first line; minisign signs neither fact.
    if not signature.prehashed or signature.untrusted_comment != DEFAULT_UNTRUSTED:
        raise DamagedError("its signature is not of the form that we write")
    fitting = [key for key in keys if key.key_id == signature.key_id]
    if not fitting:
        raise NotTrustedError(
            f"signed by {signature.key_id}, a key that is not pinned here",
            hint="pass --signer KEY if you know that key from elsewhere",
        )
    seen = hashlib.sha256(fitting[0].public + hashlib.sha256(signed).digest())
    seen.update(signature_file)
    if seen.digest() not in verified:
        fitting[0].verify(signed, signature)
        verified.add(seen.digest())
    return signature.trusted_comment, fitting[0]


def compare_digests(archive: Archive, found: Mapping[str, str]) -> list[Finding]:
    """Return what digests from the store say against an archive's signed sums.

    Args:
        archive: a judged archive with its sums.
        found: SHA-256 by name relative to the vault; absent means unreadable.
    """
    listed = {finding.object for finding in archive.findings}
    sums = {n: d for n, d in archive.sums.items() if archive.path(n) not in listed}
    return compare_sums(sums, found, archive.path(""))


def compare_sums(
    sums: Mapping[str, str], found: Mapping[str, str], prefix: str
) -> list[Finding]:
    """Return a finding for each signed object that is unreadable or altered."""
    findings: list[Finding] = []
    for name, expected in sorted(sums.items()):
        path = prefix + name
        if path not in found:
            findings.append(Finding(path, DAMAGE, "cannot be read"))
        elif found[path] != expected:
            text = "altered: its SHA-256 is not the signed one"
            findings.append(Finding(path, DAMAGE, text))
    return findings


def judge_root(
    small: Mapping[str, bytes], trust: Trust
) -> tuple[Mapping[str, str], list[Finding]]:
    """Return the signed sums of the vault's own files, or what is wrong with them."""
    keys = trust.keys | trust.owners
    try:
        statement, _ = check_signature(
            small[SUMS], small[SIGNATURE], keys, trust.verified
        )
        sums = parse_sums(small[SUMS], SUMS)
    except DamagedError as error:
        return {}, [Finding(SIGNATURE, DAMAGE, error.message)]
    except NotTrustedError as error:
        return {}, [Finding(SIGNATURE, DISTRUST, error.message)]
    if statement.kind != "vault" or statement.vault != trust.vault:
        text = "signed for another vault or purpose"
        return {}, [Finding(SIGNATURE, DISTRUST, text)]
    if set(sums) != set(ROOT_OBJECTS) or statement.objects != len(sums):
        return {}, [Finding(SUMS, DAMAGE, "does not list what a vault holds")]
    return sums, _root_trouble(small[SUMS], statement, trust.root)


def _root_trouble(
    sums: bytes, statement: Statement, seen: Root | None
) -> list[Finding]:
    """Hold the vault's own files against the newest that were seen from here."""
    if seen is None or statement.sequence > seen.number:
        return []
    if statement.sequence < seen.number:
        text = (
            f"an older one was put back: number {statement.sequence} of {seen.number}"
        )
        return [Finding(SUMS, DAMAGE, text)]
    if hashlib.sha256(sums).hexdigest() != seen.sums:
        text = f"not what was seen from here as number {seen.number}"
        return [Finding(SUMS, DAMAGE, text)]
    return []


def _present(data: bytes | None) -> bytes:
    if data is None:
        raise DamagedError("its sums or their signature cannot be read")
    return data


def _archive_of(name: str) -> str:
    parts = name.split("/")
    if len(parts) > 1 and parts[0] == ARCHIVES and is_archive_id(parts[1]):
        return parts[1]
    return ""


def _foreign(entry: Entry) -> list[Finding]:
    known = {*ROOT_OBJECTS, SUMS, SIGNATURE}
    if entry.kind == "file" and entry.name in known:
        return []
    if entry.kind == "folder" and entry.name in {ARCHIVES, REMOVALS}:
        return []
    if REMOVAL_NAME.fullmatch(entry.name) and entry.kind in {"file", "folder"}:
        return []
    if entry.kind == "file" and is_part(entry.name):
        return [Finding(entry.name, LEFTOVER, "left by an interrupted transfer")]
    return [Finding(entry.name, DAMAGE, "foreign: it does not belong in the vault")]


def _missing_root(entries: Iterable[Entry]) -> list[Finding]:
    present = {entry.name for entry in entries if entry.kind == "file"}
    return [
        Finding(name, DAMAGE, "missing")
        for name in (*ROOT_OBJECTS, SUMS, SIGNATURE)
        if name not in present
    ]


def _unless_gone(archive: Archive, stated: Iterable[Removed]) -> Archive:
    """Return an archive as removed, if that was stated of what lies there.

    Where its sums are gone already, what is left proves nothing and is the removed
    one's, too. Other sums under its id are something else, and judged by themselves.
    """
    digests = {gone.sums for gone in stated}
    if not digests or (SUMS in archive.sizes and archive.sums_digest not in digests):
        return archive
    text = "left over: a removal names this archive"
    finding = Finding(archive_folder(archive.id), LEFTOVER, text)
    return replace(archive, standing=GONE, findings=(finding,))


def _vanished(
    present: Mapping[str, object], trust: Trust, gone: Mapping[str, Iterable[Removed]]
) -> list[Finding]:
    def missing(sent: Sent) -> bool:
        stated = {removed.sums for removed in gone.get(sent.archive, [])}
        return sent.archive not in present and sent.sums not in stated

    sent_here = trust.ledger.sent.values()
    texts = {
        sent.archive: f"missing: the whole archive, sent from here as number "
        f"{sent.sequence}"
        for sent in sent_here
        if sent.state == "committed" and missing(sent)
    }
    for sent in trust.seen.values():
        text = f"missing: the whole archive, seen from here as number {sent.sequence}"
        if missing(sent):
            texts.setdefault(sent.archive, f"{text} of {sent.name}")
    return [Finding(archive_folder(a), DAMAGE, text) for a, text in texts.items()]


def _broken_chains(
    archives: Iterable[Archive], trust: Trust, gone: Mapping[str, Iterable[Removed]]
) -> list[Finding]:
    """Return where a signer's archive names one before it that is not there.

    Where the ledger knows an archive it says so itself, by name; for the rest, each
    statement carries the digest of what its signer had committed before. What comes
    last in a chain can be taken away unseen.
    """
    present = {NONE, *(archive.sums_digest for archive in archives)}
    present |= {sent.sums for sent in trust.ledger.sent.values()}
    present |= {sent.sums for sent in trust.seen.values()}
    present |= {removed.sums for stated in gone.values() for removed in stated}
    return [
        Finding(
            archive_folder(archive.id),
            DAMAGE,
            "what its signer sent before it is missing or altered: number "
            f"{archive.statement.sequence - 1} or below",
        )
        for archive in archives
        if archive.statement is not None
        and archive.standing != GONE
        and archive.statement.vault == trust.vault
        and archive.statement.previous not in present
    ]


def _baseless(archives: Iterable[Archive]) -> list[Finding]:
    """Return the increments that no restore can use: what they build on is gone."""
    archives = list(archives)
    present = {"", NONE, *(a.id for a in archives if a.standing != GONE)}
    return [
        Finding(
            archive_folder(archive.id),
            DAMAGE,
            f"cannot be restored: archive {archive.statement.base}, which it is an "
            "increment on, is missing",
        )
        for archive in archives
        if archive.standing == COMMITTED
        and archive.statement is not None
        and archive.statement.base not in present
    ]


def _without_signature(
    folder: str, sizes: Mapping[str, int], known: Sent | None, trust: Trust
) -> tuple[str, list[Finding]]:
    name = f"{folder}/{SIGNATURE}"
    if known is not None and known.state == "committed":
        text = f"missing: this archive was committed as number {known.sequence}"
        return REFUSED, [Finding(name, DAMAGE, text)]
    if SUMS in sizes and not trust.remembers:
        text = (
            "missing: an interrupted send left it out, or someone took it away; "
            "the sending machine can tell"
        )
        return REFUSED, [Finding(name, DISTRUST, text)]
    text = "unfinished: left by an interrupted send, no backup"
    return UNFINISHED, [Finding(folder, LEFTOVER, text)]


def _signature_trouble(
    folder: str, error: DamagedError | NotTrustedError, known: Sent | None
) -> Finding:
    # What we committed ourselves and no longer verifies was altered since; for all
    # else, a bad signature may as well be somebody's attempt.
    ours = known is not None and known.state == "committed"
    grade = DAMAGE if ours or isinstance(error, DamagedError) else DISTRUST
    return Finding(f"{folder}/{SIGNATURE}", grade, error.message)


def _statement_trouble(
    folder: str, statement: Statement, archive: str, trust: Trust
) -> list[Finding]:
    name = f"{folder}/{SIGNATURE}"
    if statement.kind != "archive" or statement.vault != trust.vault:
        return [Finding(name, DISTRUST, "signed for another vault or purpose")]
    if statement.archive != archive:
        text = f"this is archive {statement.archive}, copied or renamed"
        return [Finding(name, DAMAGE, text)]
    known = trust.known(archive)
    if known is not None and known.sequence != statement.sequence:
        text = f"its number is {statement.sequence}, it was sent as {known.sequence}"
        return [Finding(name, DAMAGE, text)]
    return []


def _memory_trouble(
    folder: str, archive: str, digest: str, known: Sent | None
) -> list[Finding]:
    if known is None or known.state != "committed" or known.sums == digest:
        return []
    text = f"signed anew: this is not what archive {archive} was"
    return [Finding(f"{folder}/{SUMS}", DAMAGE, text)]


def _revoked_trouble(
    folder: str, statement: Statement, digest: str, revoked: Revoked | None
) -> list[Finding]:
    """A thief can sign any number; what was not seen before does not count."""
    if revoked is None:
        return []
    seen = revoked.archives.get(statement.archive)
    if seen == digest and statement.sequence <= revoked.after:
        return []
    text = f"signed by a key that is revoked after number {revoked.after}"
    return [Finding(f"{folder}/{SIGNATURE}", DISTRUST, text)]


def _listing_trouble(
    folder: str,
    sizes: Mapping[str, int],
    sums: Mapping[str, str],
    statement: Statement,
) -> list[Finding]:
    findings = [
        Finding(f"{folder}/{name}", DAMAGE, "missing")
        for name in sorted(sums.keys() - sizes.keys())
    ]
    for name in sorted(sizes.keys() - sums.keys() - {SUMS, SIGNATURE}):
        if is_part(name):
            text, grade = "left by an interrupted transfer", LEFTOVER
        else:
            text, grade = "foreign: no signature covers it", DAMAGE
        findings.append(Finding(f"{folder}/{name}", grade, text))
    known = {MANIFEST_OBJECT, INDEX_OBJECT}
    expected = {MANIFEST_OBJECT, *sums}
    wrong = [n for n in sums if n not in known and segment_index(n) is None]
    if wrong or expected != set(sums) or statement.objects != len(sums):
        text = "its sums do not list what an archive holds"
        findings.append(Finding(f"{folder}/{SUMS}", DAMAGE, text))
    total = sum(sizes.get(name, 0) for name in sums)
    if not _spoils(findings) and total != statement.size:
        text = f"its objects hold {total} bytes, {statement.size} were signed"
        findings.append(Finding(folder, DAMAGE, text))
    return findings


def _spoils(findings: Iterable[Finding]) -> bool:
    return any(finding.grade != LEFTOVER for finding in findings)
