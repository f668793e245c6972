"""``standfast backup import-legacy`` and ``restore-legacy``."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from standfast.backup.compress import LEVELS
from standfast.backup.legacy import (
    SUM_SUFFIX,
    Known,
    OldArchive,
    find_archives,
)
from standfast.backup.legacy_import import (
    NoBaseError,
    holdings,
    import_archive,
    plan_import,
)
from standfast.backup.plan import check_target
from standfast.backup.receiving import ReceiveSink, check_free
from standfast.backup.restore import FileSink, PipeSink, Sink
from standfast.backup.secret_files import read_secret
from standfast.backup.send import Sender, stream_document
from standfast.backup.vault import ready_to_send
from standfast.cli.session import host_name
from standfast.console import Console
from standfast.errors import (
    DamagedError,
    ExitStatus,
    StandfastError,
    StoreError,
    UsageError,
)
from standfast.units import duration_text, parse_size, size_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from standfast.backup.legacy_import import Holdings
    from standfast.backup.vault import Vault
    from standfast.cli.session import Session

IMPORTED, WOULD, PRESENT, REFUSED = "imported", "would import", "present", "refused"


@dataclass(frozen=True)
class _Result:
    """What became of one old archive."""

    path: Path
    outcome: str
    known: Known | None = None
    archive: str = ""
    error: StandfastError | None = None

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        known = self.known
        return {
            "file": str(self.path),
            "outcome": self.outcome,
            "archive": self.archive or None,
            "error": None if self.error is None else self.error.message,
            "hint": None if self.error is None else self.error.hint or None,
            "name": known.name or None if known else None,
            "guid": str(known.guid) if known and known.guid else None,
            "file_bytes": known.size if known else None,
            "stream_bytes": known.stream_bytes if known else None,
            "sha256": known.sha256 if known else None,
            "sum": known.sum if known else None,
            "mac": known.mac if known else None,
        }

    def lines(self) -> list[str]:
        """Return it as people read it."""
        if self.error is not None:
            lines = [f"{self.outcome}: {self.error.message}"]
            if self.known is not None:
                lines.append(f"  {_extent(self.known)}")
            return [*lines, f"  {self.error.hint}"] if self.error.hint else lines
        assert self.known is not None
        text = f"{self.outcome}: {self.path}: {self.known.name}"
        if self.archive:
            text += f", archive {self.archive}"
        if self.known.sum != "fits":
            text += " (there is no sum beside it; its final MAC fits)"
        return [text]


def import_legacy(session: Session) -> int:
    """Bring archives of the old script into a vault, each once."""
    arguments = session.arguments
    _check_level(arguments.compression_level)
    found = find_archives(Path(arguments.folder))
    passphrase = _passphrase(arguments.passphrase_file)
    memory = parse_size(arguments.max_memory)
    vault = ready_to_send(session.vault(), arguments.recipient)
    fresh_key = vault.state.signer_key() is None
    results = [
        _Result(path, REFUSED, error=_orphan_error(path)) for path in found.orphans
    ]
    results += _import_all(session, vault, found.files, passphrase, memory)
    _report_import(session, vault, results)
    if fresh_key and any(result.outcome == IMPORTED for result in results):
        key = vault.state.make_signer_key().public.text
        session.console.note(f"readers must trust this machine's key: --signer {key}")
    return _status(results)


def _import_all(
    session: Session, vault: Vault, files: list[Path], passphrase: bytes, memory: int
) -> list[_Result]:
    """Import archives; an increment waits until its base is there, if it comes."""
    done: list[_Result] = []
    while files:
        waiting: list[_Result] = []
        before = len(done)
        for path in files:
            result = _import_one(session, vault, path, passphrase, memory)
            if isinstance(result.error, NoBaseError):
                waiting.append(result)
                continue
            done.append(result)
            _show(session, result)
        gained = any(result.outcome == IMPORTED for result in done[before:])
        files = [result.path for result in waiting] if gained else []
        if not gained:
            for result in waiting:
                _show(session, result)
            done += waiting
    return done


def _show(session: Session, result: _Result) -> None:
    for line in result.lines():
        session.console.result_line(line)


def _import_one(
    session: Session, vault: Vault, path: Path, passphrase: bytes, memory: int
) -> _Result:
    """Import one archive; what is wrong with it does not stop the others."""
    known = None
    try:
        with closing(OldArchive(path, passphrase, memory)) as archive:
            known = _examine(session, archive)
            _refuse(archive, known)
            held = holdings(vault, vault.trust([]))
            return _seal(session, vault, archive, known, held)
    except StoreError:
        raise
    except StandfastError as error:
        return _Result(path, REFUSED, known, error=error)


def _seal(
    session: Session, vault: Vault, archive: OldArchive, known: Known, held: Holdings
) -> _Result:
    plan = plan_import(archive, known, held)
    if plan is None:
        return _Result(archive.path, PRESENT, known)
    if session.arguments.dry_run:
        return _Result(archive.path, WOULD, known)
    progress = session.console.progress(
        f"sealing {known.name}", known.stream_bytes, session.clock
    )
    with progress.shown() as add:
        sender = Sender(
            clock=session.clock,
            host_name=host_name(),
            versions={},
            level=session.arguments.compression_level,
            progress=add,
        )
        outcome = import_archive(vault, archive, plan, sender, session.console.note)
    return _Result(archive.path, IMPORTED, known, outcome.archive)


def _examine(session: Session, archive: OldArchive) -> Known:
    progress = session.console.progress(
        f"checking {archive.path.name}", archive.size, session.clock
    )
    with progress.shown() as add:
        return archive.examine(lambda count: add(0, count))


def _refuse(archive: OldArchive, known: Known) -> None:
    """Refuse an archive that is not whole.

    Raises:
        DamagedError: it is not.
    """
    if known.fault:
        raise DamagedError(f"{archive.path}: {known.fault}", hint=known.hint)


def _extent(known: Known) -> str:
    """Say how far an archive's stream went."""
    text = f"{size_text(known.stream_bytes)} of its stream can be read"
    text += f" ({known.stream_bytes} bytes from {known.size} of the file)"
    if known.name:
        text += f"; it was {known.name}, guid {known.guid}"
    return text


def _orphan_error(path: Path) -> DamagedError:
    name = path.name.removesuffix(SUM_SUFFIX)
    return DamagedError(f"{path}: there is a sum, but no {name}")


def _passphrase(name: str) -> bytes:
    """Return a file's first line, as ``scrypt --passphrase file:`` takes it.

    Raises:
        UsageError: it cannot be read, others can read it, or the line is empty.
    """
    line = read_secret(name).split(b"\n", 1)[0].split(b"\r", 1)[0]
    if not line:
        raise UsageError(f"{name} holds no passphrase in its first line")
    return line


def _check_level(level: int) -> None:
    if level not in LEVELS:
        raise UsageError(f"not a compression level: {level}", hint="from 1 to 19")


def _status(results: list[_Result]) -> ExitStatus:
    """Return the exit status: the only reason there is, or that some were left."""
    failures = [result.error for result in results if result.error is not None]
    if not failures:
        return ExitStatus.DONE
    if len(failures) < len(results):
        return ExitStatus.PARTLY_DONE
    reasons = {error.status for error in failures}
    if reasons == {ExitStatus.NO_IDENTITY}:
        return ExitStatus.NO_IDENTITY
    return reasons.pop() if len(reasons) == 1 else ExitStatus.DAMAGED


def _report_import(session: Session, vault: Vault, results: list[_Result]) -> None:
    counts = {
        outcome: sum(result.outcome == outcome for result in results)
        for outcome in (IMPORTED, WOULD, PRESENT, REFUSED)
    }
    for result in results:
        if result.path.name.endswith(SUM_SUFFIX):
            session.console.result_line(result.lines()[0])
    document = {
        "vault": vault.info.vault,
        "dry_run": session.arguments.dry_run,
        "status": int(_status(results)),
        "files": [result.document() for result in results],
    }
    said = [f"{count} {outcome}" for outcome, count in counts.items() if count]
    session.console.result(document, ", ".join(said))


def restore_legacy(session: Session) -> int:
    """Receive an archive of the old script, or write its stream to a file."""
    arguments = session.arguments
    flags = _check_words(session)
    if arguments.output == "-" and not arguments.json:
        # Standard output carries the data; words would spoil it.
        session.console = Console("text", min(session.console.loudness, 0))
    passphrase = _passphrase(arguments.passphrase_file)
    memory = parse_size(arguments.max_memory)
    with closing(OldArchive(Path(arguments.file), passphrase, memory)) as archive:
        if arguments.target:
            check_free(session.host, arguments.target, flags)
        known = _examine(session, archive)
        if known.fault:
            raise DamagedError(
                f"{archive.path}: {known.fault}", hint=f"{known.hint}; {_extent(known)}"
            )
        if arguments.dry_run:
            _report_restore(session, known, "would restore", 0)
            return 0
        progress = session.console.progress(
            f"restoring {known.name}", known.stream_bytes, session.clock
        )
        with progress.shown() as add:
            _give(session, archive, known, flags, lambda count: add(count, 0))
        _report_restore(session, known, "restored", progress.seconds())
    return 0


def _check_words(session: Session) -> list[str]:
    arguments = session.arguments
    if bool(arguments.target) == bool(arguments.output):
        raise UsageError(
            "restore to where?", hint="name a TARGET-DATASET, or --output FILE or -"
        )
    flags = ["-F"] if arguments.force else []
    flags += arguments.receive_flag
    if arguments.target:
        check_target(arguments.target)
    elif flags:
        raise UsageError("--force and --receive-flag are for a TARGET-DATASET")
    if arguments.output == "-" and (arguments.json or sys.stdout.isatty()):
        raise UsageError(
            "standard output is wanted for the stream", hint="pipe it, without --json"
        )
    for flag in flags:
        if not flag.startswith("-"):
            raise UsageError(f"not a flag of zfs receive: {flag}")
    return flags


def _give(
    session: Session,
    archive: OldArchive,
    known: Known,
    flags: list[str],
    progress: Callable[[int], None],
) -> None:
    """Give an examined archive's stream to where it was asked for."""
    arguments = session.arguments
    sink: Sink
    if arguments.target:
        assert known.facts is not None
        taken = stream_document(known.facts).substreams
        sink = ReceiveSink(session.host, arguments.target, flags, taken)
    elif arguments.output == "-":
        sink = PipeSink(sys.stdout.fileno())
    else:
        sink = FileSink(Path(arguments.output))
    try:
        for piece in archive.stream():
            sink.write(piece)
            progress(len(piece))
    except BaseException:
        sink.abandon()
        raise
    sink.finish()


def _report_restore(session: Session, known: Known, verb: str, seconds: float) -> None:
    arguments = session.arguments
    where = arguments.target or arguments.output
    document = {
        "file": arguments.file,
        "name": known.name,
        "guid": str(known.guid),
        "bytes": known.stream_bytes,
        "sum": known.sum,
        "to": where,
        "dry_run": arguments.dry_run,
        "seconds": round(seconds, 3),
    }
    text = f"{verb} {known.name} to {where}: {size_text(known.stream_bytes)}"
    if seconds:
        text += f" in {duration_text(seconds)}"
    if arguments.output == "-":
        session.console.note(text)
    else:
        session.console.result(document, text)
