"""``standfast backup restore``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from standfast.backup.plan import check_target
from standfast.backup.receiving import (
    ReceiveSink,
    ResumingSink,
    make_room,
    plan_landing,
)
from standfast.backup.restore import (
    FileSink,
    Found,
    PipeSink,
    Sink,
    check_before,
    find,
    find_way,
    restore,
)
from standfast.console import Console
from standfast.errors import UsageError
from standfast.units import duration_text, size_text
from standfast.zfs.streams import give_up_partial

if TYPE_CHECKING:
    from standfast.backup.recipients import X25519Identity
    from standfast.backup.vault import Vault
    from standfast.cli.session import Session


def restore_archive(session: Session) -> int:
    """Get an archive back into a dataset, a file or standard output."""
    arguments = session.arguments
    flags = _check_words(session)
    if arguments.output == "-" and not arguments.json:
        # Standard output carries the data; words would spoil it.
        session.console = Console("text", min(session.console.loudness, 0))
    vault = session.vault()
    trust = session.trust(vault)
    identity = session.identity(vault)
    if arguments.target:
        way = find_way(vault, arguments.wanted, trust, identity)
        _into_dataset(session, vault, way, flags, identity)
    else:
        found = find(vault, arguments.wanted, trust, identity)
        _into_output(session, vault, found, identity)
    return 0


def _into_dataset(
    session: Session,
    vault: Vault,
    way: list[Found],
    flags: list[str],
    identity: X25519Identity,
) -> None:
    """Receive every archive of the way that is not there yet."""
    target = session.arguments.target
    landing = plan_landing(session.host, target, flags, [f.link for f in way])
    missing = way[landing.done :]
    if landing.done:
        session.console.note(
            f"{target} has {way[landing.done - 1].link.name} already, "
            f"{len(missing)} of {len(way)} archives are missing"
        )
    for found in missing:
        _check_all(session, vault, found)
    if session.arguments.dry_run:
        _report(session, way, landing.done, "would restore", 0)
        return
    if landing.partial and landing.resume is None:
        session.console.note("gives up what was kept of a restore that was cut")
        give_up_partial(session.host, target.partition("@")[0])
    size = sum(found.manifest.size for found in missing)
    progress = session.console.progress(
        f"restoring {way[-1].link.name}", size, session.clock
    )
    ours = frozenset(part.guid for found in way for part in found.link.taken)
    with progress.shown() as add:
        for number, found in enumerate(missing):
            make_room(session.host, target, found.link, ours)
            these = landing.later if number else landing.flags
            sink = ReceiveSink(
                session.host, target, these, found.link.taken, landing.later
            )
            if landing.resume is None or number:
                restore(vault, found, identity, sink, add)
            else:
                rest = ResumingSink(sink, landing.resume)
                restore(vault, found, identity, rest, add)
                session.console.note(
                    f"went on inside of {found.link.name}: "
                    f"{size_text(rest.given)} of {size_text(found.manifest.size)} "
                    "were given to zfs receive"
                )
    _report(session, way, landing.done, "restored", progress.seconds())


def _into_output(
    session: Session, vault: Vault, found: Found, identity: X25519Identity
) -> None:
    """Write one archive's stream."""
    arguments = session.arguments
    if found.parts:
        raise UsageError(
            f"{found.link.name} is a part of {found.manifest.name}",
            hint="name a TARGET-DATASET, or write the whole of archive "
            f"{found.archive.id[:12]}",
        )
    if found.link.from_guid != "0":
        session.console.note(
            f"{found.manifest.name} is an increment on guid {found.link.from_guid}"
        )
    if arguments.dry_run or arguments.output == "-":
        _check_all(session, vault, found)
    if arguments.dry_run:
        _report(session, [found], 0, "would restore", 0)
        return
    sink: Sink = (
        PipeSink(sys.stdout.fileno())
        if arguments.output == "-"
        else FileSink(Path(arguments.output))
    )
    title = f"restoring {found.manifest.name}"
    progress = session.console.progress(title, found.manifest.size, session.clock)
    with progress.shown() as add:
        restore(vault, found, identity, sink, add)
    _report(session, [found], 0, "restored", progress.seconds())


def _check_all(session: Session, vault: Vault, found: Found) -> None:
    """Hash every object before the first byte goes out."""
    progress = session.console.progress("checking", found.archive.stored, session.clock)
    with progress.shown() as add:
        check_before(vault, found, add)


def _check_words(session: Session) -> list[str]:
    arguments = session.arguments
    if bool(arguments.target) == bool(arguments.output):
        raise UsageError(
            "restore to where?", hint="name a TARGET-DATASET, or --output FILE or -"
        )
    flags = ["-F"] if arguments.force else []
    flags += arguments.receive_flag
    if arguments.output:
        if flags:
            raise UsageError("--force and --receive-flag are for a TARGET-DATASET")
        if arguments.output == "-" and arguments.json:
            raise UsageError("--json and --output - both want standard output")
        if arguments.output == "-" and sys.stdout.isatty():
            raise UsageError(
                "will not write a stream to a terminal", hint="pipe it, or name a file"
            )
    if arguments.target:
        check_target(arguments.target)
    for flag in flags:
        if not flag.startswith("-"):
            raise UsageError(f"not a flag of zfs receive: {flag}")
    return flags


def _report(
    session: Session, way: list[Found], done: int, verb: str, seconds: float
) -> None:
    arguments = session.arguments
    last = way[-1]
    where = arguments.target or arguments.output
    size = sum(found.manifest.size for found in way[done:])
    document = {
        "archive": last.archive.id,
        "name": last.link.name,
        "guid": last.link.guid or None,
        "bytes": size,
        "to": where,
        "dry_run": arguments.dry_run,
        "seconds": round(seconds, 3),
        "archives": [found.archive.id for found in way],
        "there_before": done,
    }
    text = f"{verb} {last.link.name} to {where}: {size_text(size)}"
    if len(way) > 1:
        text += f" of {len(way) - done} archives, one after the other"
    if seconds:
        text += f" in {duration_text(seconds)}"
    if arguments.output == "-":
        session.console.note(text)
    else:
        session.console.result(document, text)
