"""``standfast backup send``."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from standfast.backup.chain import SEND, ChainPlan, Request
from standfast.backup.compress import LEVELS
from standfast.backup.dataset import (
    Source,
    begin,
    open_source,
    plan_dataset,
    properties_of,
    settle,
    size_of,
)
from standfast.backup.dataset import send as send_begun
from standfast.backup.model import archive_folder
from standfast.backup.plan import SendPlan, plan_send, plan_stdin, segment_count
from standfast.backup.send import InputProducer, Sender, send_archive
from standfast.backup.state import SENDER
from standfast.backup.sums import NONE
from standfast.backup.vault import (
    Vault,
    ready_to_send,
    vault_recipient,
    with_own_key,
)
from standfast.cli.session import host_name
from standfast.errors import StandfastError, UsageError
from standfast.pace import Limited, Pace, Unlimited
from standfast.units import duration_text, parse_rate, size_text
from standfast.zfs.listing import list_tree
from standfast.zfs.names import check_dataset, split_snapshot
from standfast.zfs.streams import check_flags, version

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from standfast.backup.model import Manifest
    from standfast.backup.send import Outcome
    from standfast.cli.session import Session


def send(session: Session) -> int:
    """Seal a snapshot, or standard input, into a vault."""
    _take_words(session)
    level = session.arguments.compression_level
    if level not in LEVELS:
        raise UsageError(f"not a compression level: {level}", hint="from 1 to 19")
    flags = _flags(session)
    vault = session.vault(_pace(session), session.arguments.recipient)
    fresh_key = vault.state.signer_key() is None
    vault = ready_to_send(vault, session.arguments.recipient)
    if not session.arguments.dry_run:
        vault = with_own_key(vault, SENDER)
    if session.arguments.stdin is not None:
        _send_stdin(session, vault)
    else:
        _send_dataset(session, vault, _request(session, flags))
    if fresh_key and not session.arguments.dry_run:
        key = vault.state.make_signer_key().public.text
        session.console.note(f"readers must trust this machine's key: --signer {key}")
    return 0


def _send_stdin(session: Session, vault: Vault) -> None:
    if sys.stdin.isatty():
        raise UsageError("standard input is a terminal", hint="pipe something in")
    plan = plan_stdin(session.arguments.stdin)
    if session.arguments.dry_run:
        _report_plan(session, vault, plan)
        return
    _mention_leftovers(session, vault)
    title = f"sending {plan.name}"
    progress = session.console.progress(title, plan.size, session.clock)
    with progress.shown() as add:
        producer = InputProducer(sys.stdin.fileno())
        outcome = send_archive(vault, plan, producer, _sender(session, {}, add))
    _report(session, vault, [(outcome, progress.seconds())])


def _send_dataset(session: Session, vault: Vault, request: Request) -> None:
    """Send what is to be sent of a dataset, an archive after the other."""
    done: list[tuple[Outcome, float]] = []
    while True:
        source = _source(session, vault, request)
        chain = plan_dataset(source, request)
        if session.arguments.dry_run:
            _report_chain(session, source, chain, request)
            return
        if chain.action != SEND:
            settle(source, chain, request)
            break
        if not done:
            _mention_leftovers(session, vault)
        done.append(_send_step(session, source, chain, request))
        if not chain.more:
            break
    if done:
        _report(session, vault, done)
    else:
        _report_nothing(session, vault, chain)


def _send_step(
    session: Session, source: Source, chain: ChainPlan, request: Request
) -> tuple[Outcome, float]:
    title = f"sending {chain.target.name}"
    progress = session.console.progress(title, 0, session.clock)
    found = version(session.host)
    versions = {"zfs": found} if found else {}
    with progress.shown() as add:
        sender = _sender(session, versions, add)
        sending = begin(source, chain, request, sender)
        progress.expect(sending.plan.size)
        outcome = send_begun(source, chain, request, sending, sender)
    return outcome, progress.seconds()


def _source(session: Session, vault: Vault, request: Request) -> Source:
    listing = list_tree(
        session.host, [request.dataset], properties_of(vault), deep=request.tree
    )
    trust = vault.trust([])
    return open_source(session.host, vault, listing, trust, session.console.note)


def _sender(
    session: Session, versions: dict[str, str], add: Callable[[int, int], None]
) -> Sender:
    return Sender(
        clock=session.clock,
        host_name=host_name(),
        versions=versions,
        level=session.arguments.compression_level,
        progress=add,
        index=not session.arguments.no_index,
        tell=session.console.note,
    )


def _take_words(session: Session) -> None:
    arguments = session.arguments
    count = 1 if arguments.stdin is not None else 2
    if len(arguments.words) != count:
        raise UsageError(
            "what goes where?",
            hint="write `send DATASET[@SNAPSHOT] VAULT` or `send --stdin NAME VAULT`",
        )
    arguments.vault = arguments.words[-1]
    if arguments.stdin is None:
        word = arguments.words[0]
        split_snapshot(word) if "@" in word else check_dataset(word)
    elif arguments.full or arguments.origin or arguments.between or arguments.tree:
        raise UsageError(
            "--full, --from, --all-between and --tree are for datasets, not for --stdin"
        )
    if arguments.full and (arguments.origin or arguments.between):
        raise UsageError(
            "--full starts from nothing: it takes no --from and no --all-between"
        )


def _request(session: Session, flags: list[str]) -> Request:
    arguments = session.arguments
    dataset, _, snapshot = arguments.words[0].partition("@")
    origin = arguments.origin or ""
    if origin and origin[0] not in "@#":
        marked = origin.startswith((f"{dataset}@", f"{dataset}#"))
        origin = origin[len(dataset) :] if marked else f"@{origin}"
    replicate = {"-R", "--replicate"} & set(flags)
    return Request(
        dataset=dataset,
        snapshot=snapshot,
        full=arguments.full,
        origin=origin,
        between=arguments.between,
        tree=arguments.tree or bool(replicate),
        flags=tuple(flag for flag in flags if flag not in replicate),
    )


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


def _mention_leftovers(session: Session, vault: Vault) -> None:
    """Name what dead senders of this machine have left; it hinders nothing."""
    with contextlib.suppress(StandfastError):
        dead = [a for a, lives in vault.state.started().items() if not lives]
        going = {one.archive for one in vault.state.resumable()}
        for archive in (a for a in dead if a not in going):
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
            "base": None if plan.base == NONE else plan.base,
            "base_guid": str(plan.base_guid) if plan.base_guid else None,
        }
    }
    lines = [f"would send {plan.name} to {vault.address}", f"  why: {plan.why}"]
    if plan.command:
        lines.append(f"  command: {' '.join(plan.command)}")
        if plan.size:
            lines.append(f"  about {size_text(plan.size)} in {count} segments")
    lines.append(f"  sealed to {vault_recipient(vault).text}")
    session.console.result(document, "\n".join(lines))


def _report_chain(
    session: Session, source: Source, chain: ChainPlan, request: Request
) -> None:
    if chain.action != SEND:
        _report_nothing(session, source.vault, chain)
        return
    plan = plan_send(chain, request, size_of(source, chain, request))
    _report_plan(session, source.vault, plan)


def _report_nothing(session: Session, vault: Vault, chain: ChainPlan) -> None:
    assert chain.mark is not None
    document = {
        "vault": vault.info.vault,
        "archive": chain.mark.archive,
        "name": chain.target.name,
        "guid": str(chain.target.guid),
        "bytes": 0,
        "stored_bytes": 0,
        "segments": 0,
        "seconds": 0.0,
        "sent": False,
    }
    session.console.result(document, chain.why)


def _report(
    session: Session, vault: Vault, done: Sequence[tuple[Outcome, float]]
) -> None:
    """Report archives; the last one is the document, with those before in it."""
    documents = [_document(vault, *each) for each in done]
    document = documents[-1] | {"before": documents[:-1]}
    text = "\n".join(_sentence(*each) for each in done)
    session.console.result(document, text)


def _document(vault: Vault, outcome: Outcome, seconds: float) -> dict[str, Any]:
    manifest = outcome.manifest
    return {
        "vault": vault.info.vault,
        "archive": outcome.archive,
        "sequence": outcome.sequence,
        "name": manifest.name,
        "guid": None if manifest.stream is None else manifest.stream.guid,
        "bytes": manifest.size,
        "stored_bytes": outcome.stored,
        "segments": len(manifest.segments),
        "seconds": round(seconds, 3),
        "sent": True,
        "from_guid": _from_guid(manifest),
        "reused_bytes": outcome.reused,
    }


def _from_guid(manifest: Manifest) -> str | None:
    stream = manifest.stream
    return None if stream is None or stream.from_guid == "0" else stream.from_guid


def _sentence(outcome: Outcome, seconds: float) -> str:
    manifest = outcome.manifest
    kind = "bytes whose completeness only their source knows"
    if manifest.stream is not None:
        kind = "a whole send stream"
    if _from_guid(manifest) is not None:
        kind = "an incremental send stream"
    rate = manifest.size / max(seconds, 1e-6)
    text = (
        f"sent {manifest.name}: {kind}, {size_text(manifest.size)} stored as "
        f"{size_text(outcome.stored)} in {duration_text(seconds)} "
        f"({size_text(rate)}/s)"
    )
    if outcome.reused:
        text += f", {size_text(outcome.reused)} of them by an earlier run"
    return f"{text}\narchive {outcome.archive}"
