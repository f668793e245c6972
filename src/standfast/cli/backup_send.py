"""``standfast backup send``."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from standfast.backup.compress import LEVELS
from standfast.backup.model import archive_folder
from standfast.backup.plan import SendPlan, plan_send, plan_stdin, segment_count
from standfast.backup.send import (
    CommandProducer,
    InputProducer,
    Producer,
    Sender,
    send_archive,
)
from standfast.backup.vault import Vault, check_finished, pin, vault_recipient
from standfast.cli.session import host_name
from standfast.errors import StandfastError, UsageError
from standfast.pace import Limited, Pace, Unlimited
from standfast.units import duration_text, parse_rate, size_text
from standfast.zfs.names import split_snapshot
from standfast.zfs.streams import (
    check_flags,
    dataset_guid,
    estimate,
    snapshot_facts,
    version,
)

if TYPE_CHECKING:
    from standfast.backup.send import Outcome
    from standfast.cli.session import Session


def send(session: Session) -> int:
    """Seal a snapshot, or standard input, into a vault."""
    _take_words(session)
    level = session.arguments.compression_level
    if level not in LEVELS:
        raise UsageError(f"not a compression level: {level}", hint="from 1 to 19")
    flags = _flags(session)
    vault = _known(session, session.vault(_pace(session)))
    plan = _plan(session, flags)
    if session.arguments.dry_run:
        _report_plan(session, vault, plan)
        return 0
    _mention_leftovers(session, vault)
    fresh_key = vault.state.signer_key() is None
    title = f"sending {plan.name}"
    progress = session.console.progress(title, plan.size, session.clock)
    with progress.shown() as add:
        sender = Sender(
            clock=session.clock,
            host_name=host_name(),
            versions=_versions(session, plan),
            level=level,
            progress=add,
        )
        outcome = send_archive(vault, plan, _producer(session, plan), sender)
    _report(session, vault, outcome, progress.seconds())
    if fresh_key:
        key = vault.state.make_signer_key().public.text
        session.console.note(f"readers must trust this machine's key: --signer {key}")
    return 0


def _take_words(session: Session) -> None:
    arguments = session.arguments
    count = 1 if arguments.stdin is not None else 2
    if len(arguments.words) != count:
        raise UsageError(
            "what goes where?",
            hint="write `send DATASET@SNAPSHOT VAULT` or `send --stdin NAME VAULT`",
        )
    arguments.vault = arguments.words[-1]
    if arguments.stdin is None:
        split_snapshot(arguments.words[0])


def _flags(session: Session) -> list[str]:
    flags = ["-w"] if session.arguments.raw else []
    flags += session.arguments.send_flag
    if flags and session.arguments.stdin is not None:
        raise UsageError("--raw and --send-flag are for zfs send, not for --stdin")
    check_flags(flags)
    return flags


def _pace(session: Session) -> Pace:
    if session.arguments.bwlimit is None:
        return Unlimited()
    return Limited(parse_rate(session.arguments.bwlimit), session.clock)


def _known(session: Session, vault: Vault) -> Vault:
    """Return the vault with a recipient that this machine has reason to trust."""
    given = session.arguments.recipient
    if given is not None and vault.record is None:
        vault = pin(vault, given)
    if given not in {None, vault.info.recipient}:
        raise UsageError(f"this vault's recipient is {vault.info.recipient}")
    vault_recipient(vault)
    check_finished(vault)
    return vault


def _plan(session: Session, flags: list[str]) -> SendPlan:
    if session.arguments.stdin is not None:
        if sys.stdin.isatty():
            raise UsageError("standard input is a terminal", hint="pipe something in")
        return plan_stdin(session.arguments.stdin)
    snapshot = snapshot_facts(session.host, session.arguments.words[0])
    dataset = dataset_guid(session.host, snapshot.name.partition("@")[0])
    size = estimate(session.host, snapshot, flags)
    return plan_send(snapshot, size, flags, dataset)


def _producer(session: Session, plan: SendPlan) -> Producer:
    if plan.command:
        return CommandProducer(session.host.spawn(plan.command))
    return InputProducer(sys.stdin.fileno())


def _versions(session: Session, plan: SendPlan) -> dict[str, str]:
    if not plan.command:
        return {}
    found = version(session.host)
    return {"zfs": found} if found else {}


def _mention_leftovers(session: Session, vault: Vault) -> None:
    """Name what dead senders of this machine have left; it hinders nothing."""
    with contextlib.suppress(StandfastError):
        dead = [a for a, lives in vault.state.started().items() if not lives]
        for archive in dead:
            session.console.note(
                f"{archive_folder(archive)} is left from an interrupted send; "
                f"`standfast backup clean {vault.address}` removes it"
            )


def _report_plan(session: Session, vault: Vault, plan: SendPlan) -> None:
    count = segment_count(plan.size, vault.info)
    document: dict[str, Any] = {
        "plan": {
            "name": plan.name,
            "command": list(plan.command),
            "guid": None if plan.guid is None else str(plan.guid),
            "estimated_bytes": plan.size,
            "segments": count,
            "recipient": vault_recipient(vault).text,
            "why": plan.why,
        }
    }
    lines = [f"would send {plan.name} to {vault.address}", f"  why: {plan.why}"]
    if plan.command:
        lines.append(f"  command: {' '.join(plan.command)}")
        lines.append(f"  about {size_text(plan.size)} in {count} segments")
    lines.append(f"  sealed to {vault_recipient(vault).text}")
    session.console.result(document, "\n".join(lines))


def _report(session: Session, vault: Vault, outcome: Outcome, seconds: float) -> None:
    manifest = outcome.manifest
    document = {
        "vault": vault.info.vault,
        "archive": outcome.archive,
        "sequence": outcome.sequence,
        "name": manifest.name,
        "guid": None if manifest.stream is None else manifest.stream.guid,
        "bytes": manifest.size,
        "stored_bytes": outcome.stored,
        "segments": len(manifest.segments),
        "seconds": round(seconds, 3),
    }
    kind = "bytes whose completeness only their source knows"
    if manifest.stream is not None:
        kind = "a whole send stream"
    rate = manifest.size / max(seconds, 1e-6)
    session.console.result(
        document,
        f"sent {manifest.name}: {kind}, {size_text(manifest.size)} stored as "
        f"{size_text(outcome.stored)} in {duration_text(seconds)} "
        f"({size_text(rate)}/s)\narchive {outcome.archive}",
    )
