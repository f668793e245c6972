"""``standfast backup list``, ``verify``, ``kit`` and ``clean``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from standfast.backup.clean import REMOVE, clean, plan_clean
from standfast.backup.kit import compare_kit
from standfast.backup.opening import Recognised
from standfast.backup.proof import COMMITTED, DISTRUST, REFUSED, UNFINISHED
from standfast.backup.proven import remember_report
from standfast.backup.restore import manifests_of
from standfast.backup.verify import Level, Verifier, read_root, remember_root, verify
from standfast.clock import utc_text
from standfast.console import table
from standfast.errors import StandfastError
from standfast.units import size_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from standfast.backup.model import Manifest
    from standfast.backup.proof import Archive, Finding, Survey
    from standfast.backup.vault import Vault
    from standfast.backup.verify import Report
    from standfast.cli.session import Session


def list_vault(session: Session) -> int:
    """Show what a vault holds, by ids or, with a key, by names."""
    vault = session.vault()
    survey, _ = vault.survey(session.trust(vault))
    manifests: Mapping[str, Manifest] = {}
    if session.arguments.identity or session.arguments.passphrase_file:
        whole = [a for a in survey.archives if a.standing == COMMITTED]
        identity = session.identity(vault)
        manifests, unread = manifests_of(vault, whole, identity)
        for archive, error in unread.items():
            session.console.note(f"{archive}: {error.message}")
    archives = sorted(survey.archives, key=_time)
    document = {
        "vault": vault.info.vault,
        "address": vault.address,
        "archives": [_archive_document(a, manifests.get(a.id)) for a in archives],
    }
    session.console.result(document, _listing(archives, manifests))
    return 0


def _listing(archives: Sequence[Archive], manifests: Mapping[str, Manifest]) -> str:
    if not archives:
        return "the vault holds no archive"
    named = ["NAME", "GUID"] if manifests else []
    rows: list[list[str]] = []
    for archive in archives:
        row = [
            archive.id,
            utc_text(_time(archive)) if archive.statement else "-",
            size_text(archive.stored),
            archive.signer[:10] or "-",
            archive.standing,
        ]
        if manifests:
            manifest = manifests.get(archive.id)
            stream = manifest.stream if manifest else None
            row.append(manifest.name if manifest else "?")
            row.append(stream.guid if stream else "-")
        rows.append(row)
    return table(["ARCHIVE", "SENT", "STORED", "SIGNER", "STATE", *named], rows)


def _archive_document(archive: Archive, manifest: Manifest | None) -> dict[str, Any]:
    statement = archive.statement
    document: dict[str, Any] = {
        "archive": archive.id,
        "state": archive.standing,
        "stored_bytes": archive.stored,
        "objects": len(archive.sizes),
        "signer": archive.signer or None,
        "sequence": statement.sequence if statement else None,
        "time": statement.time if statement else None,
        "findings": [_finding_document(f) for f in archive.findings],
    }
    if manifest is not None:
        document["name"] = manifest.name
        document["bytes"] = manifest.size
        document["created"] = manifest.created
        document["host"] = manifest.host
        document["stream"] = _stream_document(manifest)
    return document


def _stream_document(manifest: Manifest) -> dict[str, Any] | None:
    stream = manifest.stream
    if stream is None:
        return None
    return {
        "name": stream.name,
        "guid": stream.guid,
        "from_guid": stream.from_guid,
        "features": stream.features,
        "substreams": [
            {"name": s.name, "guid": s.guid, "from_guid": s.from_guid, "kind": s.kind}
            for s in stream.substreams
        ],
    }


def _time(archive: Archive) -> int:
    return archive.statement.time if archive.statement else 0


def verify_vault(session: Session) -> int:
    """Prove a vault, and name whatever is wrong with it."""
    arguments = session.arguments
    vault = session.vault()
    trust = session.trust(vault)
    level = Level(arguments.level)
    identity = session.identity(vault) if level is Level.DECRYPT else None
    recognised = Recognised()
    here = arguments.fetch or (vault.store.near and level is Level.DECRYPT)
    digests = recognised.digests(vault.store) if here else vault.store.digests
    progress = session.console.progress("verifying", 0, session.clock)
    with progress.shown() as add:
        verifier = Verifier(level, digests, identity, add, progress.expect, recognised)
        report = verify(vault, trust, arguments.archives, verifier)
    root, _ = read_root(vault, trust)
    kit = session.kit()
    if kit is not None:
        report.findings += compare_kit(kit, report.survey, root)
    if not arguments.signer:
        remember_root(vault, root)
    _remember(session, vault, report, read_here=here or vault.store.near)
    _report_verification(session, vault, report)
    return report.status()


def _remember(
    session: Session, vault: Vault, report: Report, *, read_here: bool
) -> None:
    """Note for ``status`` what was proven; a failure to do so changes no verdict."""
    whole = not session.arguments.archives
    now = session.clock.now()
    try:
        remember_report(vault, report, now, whole=whole, read_here=read_here)
    except StandfastError as error:
        session.console.note(f"not remembered: {error.message}")


def _report_verification(session: Session, vault: Vault, report: Report) -> None:
    findings = report.all_findings()
    hashed = report.level is Level.HASH and not session.arguments.fetch
    recorded = hashed and vault.store.recorded
    document = {
        "vault": vault.info.vault,
        "address": vault.address,
        "level": report.level,
        "ok": report.status() == 0,
        "status": report.status(),
        "recorded_hashes": recorded,
        "archives": [_archive_document(c.archive, c.manifest) for c in report.checked],
        "findings": [_finding_document(f) for f in findings],
    }
    for finding in findings:
        session.console.result_line(
            f"{finding.grade}: {finding.object}: {finding.text}"
        )
    if any(f.grade == DISTRUST for f in findings) and vault.record is None:
        session.console.note(
            "this machine knows none of the vault's signers; take the key from the "
            "recovery kit and pass --signer KEY"
        )
    session.console.result(document, _verdict(report, recorded=recorded))


def _verdict(report: Report, *, recorded: bool) -> str:
    standing = [checked.archive.standing for checked in report.checked]
    good = standing.count(COMMITTED)
    text = f"{good} of {good + standing.count(REFUSED)} archives are whole"
    how = {
        Level.LISTING: "by listing and signature; no object was read",
        Level.HASH: "every object's hash, as the store noted it, is the signed one"
        if recorded
        else "every object's hash is the signed one",
        Level.DECRYPT: "every byte was decrypted and checked",
    }[report.level]
    text += f" ({how})" if good else ""
    unfinished = standing.count(UNFINISHED)
    if unfinished:
        text += f"; {unfinished} unfinished, no backups"
    return text


def clean_vault(session: Session) -> int:
    """Remove what interrupted sends have left."""
    vault = session.vault()
    survey, _ = vault.survey(session.trust(vault))
    whose = ["ours", *(["others"] if session.arguments.others else [])]
    whose += ["resumable"] if session.arguments.resumable else []
    going = {one.archive: one.begun.name for one in vault.state.resumable()}
    steps = plan_clean(survey, vault.state.started(), whose, going)
    if not session.arguments.dry_run:
        clean(vault, steps)
        _forget_gone(vault, survey)
    document = {
        "vault": vault.info.vault,
        "dry_run": session.arguments.dry_run,
        "steps": [vars(step) for step in steps],
    }
    lines = [
        f"{'would ' if session.arguments.dry_run else ''}{step.action} {step.object} "
        f"({size_text(step.size)}): {step.why}"
        for step in steps
    ]
    freed = sum(step.size for step in steps if step.action == REMOVE)
    lines.append(f"{size_text(freed)} in leftovers to remove" if steps else "all clean")
    session.console.result(document, "\n".join(lines))
    return 0


def _forget_gone(vault: Vault, survey: Survey) -> None:
    """Drop marks of dead senders that left nothing, or ended by committing."""
    present = {a.id for a in survey.archives if a.standing == UNFINISHED}
    for archive, lives in vault.state.started().items():
        if not lives and archive not in present:
            vault.state.forget_started(archive)


def _finding_document(finding: Finding) -> dict[str, str]:
    return {"object": finding.object, "grade": finding.grade, "text": finding.text}
