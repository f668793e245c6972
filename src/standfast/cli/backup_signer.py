"""``standfast backup signer add``, ``list`` and ``revoke``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from standfast.backup.memory import read_seen
from standfast.backup.signers import add_signer, find_signer, revoke, standing
from standfast.backup.state import ROLES, Signer
from standfast.backup.vault import know
from standfast.cli.session import read_signer
from standfast.console import table
from standfast.errors import NotTrustedError, UsageError

if TYPE_CHECKING:
    from standfast.backup.proof import Survey
    from standfast.backup.state import Record
    from standfast.backup.vault import Vault
    from standfast.cli.session import Session


def add(session: Session) -> int:
    """Trust a key, or all that a recovery kit names."""
    arguments = session.arguments
    kit = session.kit()
    if (arguments.key is None) == (kit is None):
        raise UsageError("which key?", hint="give one KEY, or --kit FILE")
    recipient = kit.recipient if kit is not None else arguments.recipient
    vault = session.vault(recipient=recipient)
    if kit is not None:
        session.check_kit(vault, kit)
    if vault.record is None:
        if recipient is None:
            raise NotTrustedError(
                f"this machine does not know the vault at {vault.address}",
                hint="pass --kit FILE, or --recipient from the recovery kit",
            )
        vault = know(vault, recipient, [])
    assert vault.record is not None
    record = vault.record
    added = kit.trusted() if kit is not None else [_given(session, record)]
    known = {signer.key for signer in record.signers}
    for signer in added:
        if kit is None or signer.key not in known:
            record = add_signer(record, signer)
    vault.state.save_record(record)
    session.console.result(
        {"vault": record.vault, "added": [_document(s) for s in added]},
        "\n".join(f"{s.role} {s.key} ({s.name}) counts from now on" for s in added),
    )
    return 0


def _given(session: Session, record: Record) -> Signer:
    arguments = session.arguments
    key = read_signer(arguments.key)
    replaces = ""
    if arguments.replaces:
        replaces = find_signer(record, _plain(arguments.replaces)).key
    role = arguments.role
    assert role in ROLES
    return Signer(key=_plain(key), name=arguments.name, role=role, replaces=replaces)


def _plain(text: str) -> str:
    """Return a key without the comment line of its file."""
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


def list_signers(session: Session) -> int:
    """Show whose signatures count, and what the vault holds of each."""
    vault = session.vault()
    record = _known(vault)
    survey, _ = vault.survey(session.trust(vault))
    documents = []
    rows = []
    for signer in record.signers:
        found = standing(signer, survey)
        documents.append(
            _document(signer)
            | {"count": found.count, "last": msgspec.to_builtins(found.last)}
        )
        state = "counts"
        if signer.revoked is not None:
            state = f"revoked after {signer.revoked.after}"
        number = str(found.last.number or "-")
        row = [signer.key, signer.role, signer.name, str(found.count), number, state]
        rows.append(row)
    twins = _twins(survey)
    for text in twins:
        session.console.note(text)
    headers = ["KEY", "ROLE", "NAME", "COUNT", "LAST", "STATE"]
    document = {"vault": record.vault, "signers": documents, "twins": twins}
    session.console.result(document, table(headers, rows))
    return 0


def _twins(survey: Survey) -> list[str]:
    """Return where one signer's number was used twice; no honest machine does that."""
    found: dict[tuple[str, int], list[str]] = {}
    for archive in survey.archives:
        if archive.statement is not None and archive.signer:
            place = (archive.signer, archive.statement.sequence)
            found.setdefault(place, []).append(archive.id)
    return [
        f"number {number} of {signer} was used {len(ids)} times ({', '.join(ids)}): an "
        "old state folder was put back, two machines share the key, or it was stolen"
        for (signer, number), ids in sorted(found.items())
        if len(ids) > 1
    ]


def revoke_signer(session: Session) -> int:
    """Let a key count no more, except for what was seen of it."""
    arguments = session.arguments
    vault = session.vault()
    record = _known(vault)
    signer = find_signer(record, _plain(read_signer(arguments.key)))
    survey, _ = vault.survey(session.trust(vault))
    record = revoke(record, signer, survey, read_seen(vault.state), arguments.after)
    revoked = find_signer(record, signer.key)
    assert revoked.revoked is not None
    if not arguments.dry_run:
        vault.state.save_record(record)
    good = len(revoked.revoked.archives)
    text = f"{signer.role} {signer.key} ({signer.name}) counts no more"
    if revoked.revoked.after:
        text += f" after number {revoked.revoked.after}"
    if good:
        text += f"; {good} archives that were seen stay good"
    session.console.result(_document(revoked), text)
    session.console.note("other machines must be told as well, and the kit be printed")
    return 0


def _known(vault: Vault) -> Record:
    if vault.record is None:
        raise NotTrustedError(
            f"this machine does not know the vault at {vault.address}",
            hint="`standfast backup signer add VAULT --kit FILE` makes it known",
        )
    return vault.record


def _document(signer: Signer) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(signer)
    return document
