"""``standfast backup audit``."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from standfast.backup.audit import Journal, audit
from standfast.backup.audit_plan import (
    audits,
    miss_probability,
    parse_loss,
    probability_text,
)
from standfast.errors import UsageError

if TYPE_CHECKING:
    from standfast.backup.audit import AuditReport
    from standfast.backup.vault import Vault
    from standfast.cli.session import Session


def audit_vault(session: Session) -> int:
    """Have the vault's host prove that it has what was sent."""
    arguments = session.arguments
    if not arguments.objects.isdigit() or int(arguments.objects) < 1:
        raise UsageError(f"not a number of objects: {arguments.objects}")
    count = int(arguments.objects)
    loss = parse_loss(arguments.loss)
    vault = session.vault()
    if arguments.dry_run:
        left = Journal(vault.state).unspent()
        document = {
            "vault": vault.info.vault,
            "audits_left": audits(left, count),
            "objects_left": len(left),
        }
        text = f"would spend one of {audits(left, count)} audits of {count} objects"
        session.console.result(document, text)
        return 0
    trust = session.trust(vault)
    report = audit(vault, trust, count, secrets.SystemRandom())
    _report(session, vault, report, count, loss)
    return report.status()


def _report(
    session: Session, vault: Vault, report: AuditReport, count: int, loss: float
) -> None:
    asked, left = len(report.asked), len(report.left)
    missed = miss_probability(loss, asked)
    missed_by_all = miss_probability(loss, left)
    document: dict[str, Any] = {
        "vault": vault.info.vault,
        "address": vault.address,
        "ok": report.status() == 0,
        "status": report.status(),
        "objects_asked": asked,
        "archives_asked": len({c.archive for c in report.asked}),
        "objects_left": left,
        "audits_left": audits(report.left, count),
        "loss": loss,
        "miss_probability": missed,
        "miss_probability_of_all_left": missed_by_all,
        "findings": [vars(finding) for finding in report.findings],
    }
    for finding in report.findings:
        session.console.result_line(
            f"{finding.grade}: {finding.object}: {finding.text}"
        )
    verdict = "as they must"
    if report.status() != 0:
        verdict = "and NOT all as they must"
    lost = f"{loss * 100:g} %"
    session.console.result(
        document,
        f"{asked} objects of {document['archives_asked']} archives were hashed at the "
        f"far end behind nonces never told before, {verdict}\n"
        f"a loss of {lost} of all objects goes unseen by such an audit with "
        f"probability {probability_text(missed)}\n"
        f"{document['audits_left']} audits are left ({left} objects), which together "
        f"miss it with probability {probability_text(missed_by_all)}",
    )
