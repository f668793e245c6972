"""``standfast backup restore``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from standfast.backup.plan import check_target
from standfast.backup.restore import (
    FileSink,
    Found,
    PipeSink,
    ReceiveSink,
    Sink,
    check_before,
    check_receiver,
    find,
    restore,
)
from standfast.console import Console
from standfast.errors import UsageError
from standfast.units import duration_text, size_text

if TYPE_CHECKING:
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
    found = find(vault, arguments.wanted, trust, identity)
    if arguments.target:
        check_receiver(session.host, arguments.target, flags, found.manifest)
    if arguments.dry_run or not _is_file(arguments.output):
        _check_all(session, vault, found)
    if arguments.dry_run:
        _report(session, found, "would restore", 0)
        return 0
    sink = _sink(session, found, flags)
    title = f"restoring {found.manifest.name}"
    progress = session.console.progress(title, found.manifest.size, session.clock)
    with progress.shown() as add:
        restore(vault, found, identity, sink, add)
    _report(session, found, "restored", progress.seconds())
    return 0


def _is_file(output: str | None) -> bool:
    """Return whether the output appears at its end only, when all was checked.

    Such a one needs no pass over all objects beforehand: each is hashed as it is
    read, and of a damaged archive no file is ever seen.
    """
    return output not in {None, "-"}


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


def _sink(session: Session, found: Found, flags: list[str]) -> Sink:
    arguments = session.arguments
    if arguments.target:
        return ReceiveSink(session.host, arguments.target, flags, found.manifest)
    if arguments.output == "-":
        return PipeSink(sys.stdout.fileno())
    return FileSink(Path(arguments.output))


def _report(session: Session, found: Found, verb: str, seconds: float) -> None:
    arguments = session.arguments
    manifest = found.manifest
    where = arguments.target or arguments.output
    document = {
        "archive": found.archive.id,
        "name": manifest.name,
        "guid": None if manifest.stream is None else manifest.stream.guid,
        "bytes": manifest.size,
        "to": where,
        "dry_run": arguments.dry_run,
        "seconds": round(seconds, 3),
    }
    text = f"{verb} {manifest.name} to {where}: {size_text(manifest.size)}"
    if seconds:
        text += f" in {duration_text(seconds)}"
    if arguments.output == "-":
        session.console.note(text)
    else:
        session.console.result(document, text)
