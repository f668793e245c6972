"""The command line: arguments in, exit status out. Only here does anything exit.

An area is imported when it is named, so that ``standfast --help``
stays quick and one area's libraries never burden another.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from standfast import __version__
from standfast.errors import ExitStatus, InterruptError, StandfastError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

AREAS = {
    "backup": "ZFS snapshots off-site: encrypted, proven whole, restorable",
    "director": "the network layer before HAProxy: health, steering, failover",
    "status": "one screen for the whole machine: service, backups, kernel memory",
    "tune": "ZFS memory settings: what boots, what does not, and what to set instead",
}


class Parser(argparse.ArgumentParser):
    """An argparse parser whose complaints are our errors."""

    def __init__(self, *args: Any, **keywords: Any) -> None:  # noqa: ANN401
        keywords.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        keywords.setdefault("allow_abbrev", False)
        self._in_any_order = False
        # Name of the argument that takes every word after `--` as it stands.
        self.rest = ""
        super().__init__(*args, **keywords)

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting.

        Raises:
            UsageError: always.
        """
        raise UsageError(message, hint=f"see `{self.prog} --help`")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: ANN401
        """Parse, taking flags and other words in any order.

        By itself argparse gives an optional word (``ARCHIVE``, ``TARGET-DATASET``)
        no second chance once a flag stood before it.
        """
        if self.rest and not self._in_any_order:
            args, rest = _split(list(args or ()))
            namespace = namespace or argparse.Namespace()
            setattr(namespace, self.rest, rest)
        if self._subparsers is not None or self._in_any_order:
            return super().parse_known_args(args, namespace)
        self._in_any_order = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._in_any_order = False

    def _print_message(self, message: str, file: Any = None) -> None:  # noqa: ANN401
        """Print, where argparse would keep it quiet that it could not."""
        try:
            (file or sys.stdout).write(message)
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise StandfastError(f"cannot print: {error.strerror}") from None


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Return what stands before ``--`` and what stands after it."""
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def build_parser(argv: Sequence[str]) -> Parser:
    """Return the parser, with the details of the named area only."""
    parser = Parser(
        prog="standfast",
        description="Keeps a few ZFS and HAProxy machines standing.",
        epilog="`standfast AREA --help` says more of each area.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    areas = parser.add_subparsers(metavar="AREA", required=True)
    for name, summary in AREAS.items():
        area = areas.add_parser(name, help=summary, description=summary)
        if name in argv[:1]:
            import_module(f"standfast.cli.{name}").add_parsers(area)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    try:
        return _run(argv)
    except KeyboardInterrupt:
        return _fail(InterruptError("interrupted"), argv)
    except StandfastError as error:
        return _fail(error, argv)
    except SystemExit as error:  # argparse, after --help and --version
        return int(error.code or 0)
    except MemoryError:
        return _fail(StandfastError("out of memory"), argv)


def run() -> NoReturn:
    """Entry point of the ``standfast`` program."""
    # A write to a closed pipe must be an error that we can report.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _terminate)
    os.umask(0o077)
    status = main(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError as error:
        # EIO: a terminal that went away, as after logging out.
        if error.errno not in {errno.EPIPE, errno.EIO} and not status:
            reason = error.strerror or "input/output error"
            status = _fail(StandfastError(f"cannot print: {reason}"), [])
        # Nobody listens any more; keep the interpreter from complaining of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    sys.exit(status)


def _run(argv: Sequence[str]) -> int:
    parser = build_parser(argv)
    arguments = parser.parse_args(list(argv))
    if not hasattr(arguments, "run"):
        parser.error("a command is missing")
    status: int = arguments.run(arguments)
    return status


def _hint(error: StandfastError, argv: Sequence[str]) -> str:
    """Return an error's hint; a mistake in usage always has one."""
    if error.hint or error.status != ExitStatus.USAGE:
        return error.hint
    return f"see `{' '.join(['standfast', *argv[:2]])} --help`"


def _fail(error: StandfastError, argv: Sequence[str]) -> int:
    hint = _hint(error, argv)
    try:
        if "--json" in argv:
            body = {
                "message": error.message,
                "hint": hint,
                "status": error.status,
            }
            sys.stdout.write(json.dumps({"error": body}, indent=2) + "\n")
            sys.stdout.flush()
    except OSError:
        pass  # standard output takes nothing; standard error may
    try:
        sys.stderr.write(f"standfast: error: {error.message}\n")
        if hint:
            sys.stderr.write(f"standfast: hint: {hint}\n")
    except OSError:
        pass  # standard error is gone; the status still tells
    return int(error.status)


def _terminate(_number: int, _frame: object) -> NoReturn:
    # Clearing up takes a moment, which a second Ctrl-C must not cut short.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


__all__ = ["AREAS", "ExitStatus", "Parser", "build_parser", "main", "run"]
