"""``standfast backup prune``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from standfast.backup.proof import LEFTOVER, REFUSED
from standfast.backup.prune import Wish, carry_out, check_plan, look, remember
from standfast.backup.retention import Policy
from standfast.backup.signers import predecessors
from standfast.backup.state import PRUNER
from standfast.backup.vault import with_own_key
from standfast.clock import utc_text
from standfast.console import table
from standfast.errors import ExitStatus, NotTrustedError, UsageError
from standfast.units import parse_duration, size_text

if TYPE_CHECKING:
    from standfast.backup.proof import Finding, Survey
    from standfast.backup.prune import PrunePlan
    from standfast.backup.removals import Removal
    from standfast.backup.vault import Vault
    from standfast.cli.session import Session

RULES = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


def prune(session: Session) -> int:
    """Remove what no rule keeps, after stating it under this machine's own key."""
    policy = _policy(session)
    vault = session.vault()
    if vault.record is None:
        raise NotTrustedError(
            f"this machine does not know the vault at {vault.address}",
            hint="`standfast backup signer add VAULT --kit FILE` takes what it must "
            "know from the recovery kit",
        )
    if session.arguments.dry_run:
        _run(session, vault, policy)
        return ExitStatus.DONE
    with vault.state.pruning():
        return _run(session, vault, policy)


def _run(session: Session, vault: Vault, policy: Policy | None) -> int:
    dry = session.arguments.dry_run
    fresh_key = not dry and vault.state.signer_key(PRUNER) is None
    if not dry:
        vault = with_own_key(vault, PRUNER)
    wish = Wish(
        policy=policy,
        now=int(session.clock.now()),
        signers=predecessors(vault.record),
        vouched=session.arguments.trust_times,
        drop=session.arguments.drop,
        most=session.arguments.max_remove,
    )
    given = session.arguments.identity or session.arguments.passphrase_file
    identity = session.identity(vault) if given else None
    looked = look(vault, session.trust(vault), wish, identity)
    plan = looked.plan
    _tell(session, looked.survey, plan)
    if not dry:
        remember(vault, looked)
    check_plan(plan, wish.most)
    removal = None
    if not dry:
        total = sum(plan.sizes.values())
        progress = session.console.progress("removing", total, session.clock)
        with progress.shown() as add:
            removal = carry_out(vault, looked, wish.now, add)
    _report(session, vault, plan, removal)
    if fresh_key:
        key = vault.state.make_signer_key(PRUNER).public.text
        session.console.note(
            "senders and readers must trust this machine's removals: "
            f"standfast backup signer add VAULT {key} --role pruner"
        )
    return ExitStatus.DAMAGED if plan.alarms else ExitStatus.DONE


def _policy(session: Session) -> Policy | None:
    arguments = session.arguments
    minimum = arguments.minimum
    counts = {rule: getattr(arguments, f"keep_{rule}") for rule in RULES}
    if min(minimum - 1, *counts.values()) < 0:
        raise UsageError(
            "a rule keeps 0 or more, and the minimum is 1 or more",
            hint="as in --keep-daily 7 --keep-monthly 12",
        )
    policy = Policy(
        **counts,
        within=parse_duration(arguments.keep_within),
        minimum=minimum,
        min_age=parse_duration(arguments.min_age),
    )
    if arguments.observe:
        if not policy.keeps_nothing() or arguments.drop:
            raise UsageError("--observe removes nothing: give no rule with it")
        return None
    if policy.keeps_nothing():
        if arguments.drop:
            return None
        raise UsageError(
            "what is to be kept?",
            hint="as in --keep-daily 7 --keep-monthly 12; --observe only looks",
        )
    return policy


def _tell(session: Session, survey: Survey, plan: PrunePlan) -> None:
    """Say what is wrong with the vault; a prune is no verification."""
    grades = [f for f in survey.all_findings() if f.grade != LEFTOVER]
    for finding in grades:
        session.console.note(f"{finding.grade}: {finding.object}: {finding.text}")
    refused = [a for a in survey.archives if a.standing == REFUSED]
    if refused:
        session.console.note(
            f"{len(refused)} refused archives are neither counted nor touched; "
            "--drop ID removes one"
        )
    undated = [a for a, d in plan.decisions.items() if "came" in d.reasons[0]]
    if undated:
        session.console.note(
            f"{len(undated)} archives were there when this machine first looked, so "
            "none of them goes; if you believe the times that their senders signed, "
            "say --trust-times once"
        )


def _report(
    session: Session,
    vault: Vault,
    plan: PrunePlan,
    removal: Removal | None,
) -> None:
    dry = session.arguments.dry_run
    freed = sum(plan.sizes.values())
    document = {
        "vault": vault.info.vault,
        "dry_run": dry,
        "removal": None if removal is None else removal.number,
        "removed": plan.order,
        "freed_bytes": freed,
        "leftovers": plan.leftovers,
        "archives": [_decision_document(plan, a) for a in _by_age(plan)],
        "findings": [_finding_document(f) for f in plan.alarms],
    }
    rows = [_row(plan, archive) for archive in _by_age(plan)]
    headers = ["ARCHIVE", "SEEN", "FATE", "WHY"]
    lines = [table([*headers, *(["NAME"] if plan.names else [])], rows)] if rows else []
    verb = "would remove" if dry else "removed"
    lines.append(
        f"{verb} {len(plan.order)} of {len(plan.decisions)} archives, "
        f"{size_text(freed)}"
    )
    if removal is not None:
        lines[-1] += f", stated as removal {removal.number}"
    session.console.result(document, "\n".join(lines))


def _by_age(plan: PrunePlan) -> list[str]:
    """Return all archives, the one that was seen first at the top."""
    seen = plan.seen.archives

    def age(archive: str) -> tuple[int, int]:
        known = seen.get(archive)
        return (known.time or 0, known.order) if known is not None else (0, 0)

    return sorted(plan.decisions, key=age)


def _row(plan: PrunePlan, archive: str) -> list[str]:
    decision = plan.decisions[archive]
    seen = plan.seen.archives.get(archive)
    known = seen is not None and seen.time is not None
    when = utc_text(seen.time or 0) if seen is not None and known else "-"
    row = [archive, when, "keep" if decision.keep else "remove"]
    row.append(", ".join(decision.reasons))
    return [*row, plan.names.get(archive, "?")] if plan.names else row


def _decision_document(plan: PrunePlan, archive: str) -> dict[str, Any]:
    decision = plan.decisions[archive]
    seen = plan.seen.archives.get(archive)
    document: dict[str, Any] = {
        "archive": archive,
        "keep": decision.keep,
        "reasons": decision.reasons,
        "seen": seen.time if seen else None,
        "signer": seen.signer if seen else None,
        "line": seen.line or None if seen else None,
    }
    if archive in plan.names:
        document["name"] = plan.names[archive]
    return document


def _finding_document(finding: Finding) -> dict[str, str]:
    return {"object": finding.object, "grade": finding.grade, "text": finding.text}
