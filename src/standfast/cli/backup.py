"""``standfast backup ...``: the flags of each command, and where it leads."""

from __future__ import annotations

import signal
from importlib import import_module
from typing import TYPE_CHECKING, Any

from standfast.cli.backup_browse import add_browse
from standfast.cli.backup_drill_flags import add_drill
from standfast.cli.backup_far import add_far
from standfast.cli.backup_upkeep import add_upkeep
from standfast.cli.old_script import add_old_script

if TYPE_CHECKING:
    import argparse

EXIT_STATUS = """
EXIT STATUS
  0 done   1 failed   2 usage or configuration   3 partly done
  10 no vault there   11 locked by another process   12 no identity fits
  13 damaged or incomplete   14 signature missing, wrong or not trusted
  130 interrupted; any other: failed

VAULT is a directory, ssh://[user@]host[:port]/path, the same with sftp://,
  or s3://bucket/prefix
"""


def add_parsers(area: argparse.ArgumentParser) -> None:
    """Add every command of the area."""
    area.epilog = EXIT_STATUS
    commands = area.add_subparsers(metavar="COMMAND", required=True)
    _add_init(commands)
    _add_send(commands)
    _add_list(commands)
    _add_verify(commands)
    _add_restore(commands)
    _add_kit(commands)
    _add_clean(commands)
    add_browse(commands, _command, _reading)
    _add_run(commands)
    _add_check_config(commands)
    _add_marks(commands)
    add_old_script(commands, _command, _dry_run)
    _add_status(commands)
    add_far(commands, _command, _signer, _dry_run)
    add_upkeep(commands, _command, (_owners, _keys, _reading, _dry_run))
    add_drill(commands, _command, _reading, _dry_run)


def _command(
    commands: Any,  # noqa: ANN401 - argparse's class is private
    name: str,
    summary: str,
    where: str,
    **keywords: Any,  # noqa: ANN401 - passed on to argparse
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=summary, epilog=EXIT_STATUS, **keywords
    )
    common = parser.add_argument_group("every command")
    common.add_argument("--json", action="store_true", help="print one JSON document")
    common.add_argument("-q", "--quiet", action="store_true", help="errors only")
    common.add_argument("-v", "--verbose", action="count", default=0, help="say more")
    common.add_argument(
        "--retry-for",
        metavar="TIME",
        default="2m",
        help="how long to try again when a connection fails (default 2m)",
    )
    common.add_argument(
        "--endpoint",
        metavar="URL",
        help="the server of an s3:// vault, where it is not what boto3 is set to",
    )
    parser.set_defaults(run=lambda arguments: _run(where, arguments))
    return parser


def _run(where: str, arguments: argparse.Namespace) -> int:
    """Import a command's module, and run its function with a session."""
    from standfast.cli.session import Session  # noqa: PLC0415 - quick --help

    module, _, function = where.partition(":")
    command = getattr(import_module(f"standfast.cli.{module}"), function)
    # Logging out must not end a backup: no screen(1) is needed.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    session = Session(arguments)
    try:
        status: int = command(session)
    except KeyboardInterrupt:
        session.clock.stop()
        raise
    finally:
        session.close()
    return status


def _dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="say what would be done"
    )


def _object_lock(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--object-lock",
        metavar="DAYS",
        help="s3:// only: nobody, the bucket's owner included, can delete what is "
        "stored for so many days",
    )


def _keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-i",
        "--identity",
        metavar="FILE",
        action="append",
        default=[],
        help="an owner's age or ssh private key; may be repeated",
    )
    parser.add_argument(
        "--passphrase-file", metavar="FILE", help="the owner's passphrase, first line"
    )


def _reading(parser: argparse.ArgumentParser) -> None:
    _keys(parser)
    _signer(parser)


def _signer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--signer",
        metavar="KEY",
        action="append",
        default=[],
        help="trust signatures by this minisign key (RW... or a .pub file) "
        "and no others; default: the keys on record here",
    )
    parser.add_argument(
        "--pruner",
        metavar="KEY",
        action="append",
        default=[],
        help="believe removals by this minisign key; default: those on record here",
    )
    parser.add_argument(
        "--kit",
        metavar="FILE",
        help="the recovery kit: its keys count where none are on record, and `verify` "
        "compares what it remembers",
    )


def _owners(parser: argparse.ArgumentParser) -> Any:  # noqa: ANN401
    owners = parser.add_argument_group("who may open it (at least one)")
    owners.add_argument(
        "-r",
        "--recipient",
        metavar="R",
        action="append",
        default=[],
        help="age1..., or an ssh-ed25519 or ssh-rsa public key; may be repeated",
    )
    owners.add_argument(
        "-R",
        "--recipients-file",
        metavar="F",
        action="append",
        default=[],
        help="a file of recipients, one a line",
    )
    owners.add_argument(
        "--new-identity", metavar="FILE", help="make an age key, written to FILE"
    )
    return owners


def _add_init(commands: Any) -> None:  # noqa: ANN401
    parser = _command(commands, "init", "make a vault", "backup_init:init")
    parser.add_argument("vault", metavar="VAULT")
    owners = _owners(parser)
    owners.add_argument(
        "--passphrase-file", metavar="F", help="a passphrase, first line; no others"
    )
    parser.add_argument(
        "--segment-size", metavar="SIZE", default="32M", help="default 32M"
    )
    _object_lock(parser)
    _dry_run(parser)


def _add_send(commands: Any) -> None:  # noqa: ANN401
    parser = _command(
        commands,
        "send",
        "seal a snapshot, or any stream of bytes, into a vault",
        "backup_send:send",
        usage="%(prog)s [options] DATASET[@SNAPSHOT] VAULT\n"
        "       %(prog)s [options] --stdin NAME VAULT",
    )
    parser.add_argument("words", nargs="+", metavar="DATASET[@SNAPSHOT] VAULT")
    parser.add_argument(
        "--stdin", metavar="NAME", help="keep what comes on standard input as NAME"
    )
    start = parser.add_argument_group(
        "where the stream starts (default: at the newest that the vault has)"
    )
    start.add_argument("--full", action="store_true", help="from nothing: a new chain")
    start.add_argument(
        "--from",
        dest="origin",
        metavar="X",
        help="at this snapshot or #BOOKMARK, which the vault must have",
    )
    start.add_argument(
        "-I",
        "--all-between",
        dest="between",
        action="store_true",
        help="keep the snapshots in between too",
    )
    parser.add_argument(
        "-R", "--tree", action="store_true", help="with all datasets below it"
    )
    parser.add_argument(
        "-w", "--raw", action="store_true", help="send encrypted datasets as they are"
    )
    parser.add_argument(
        "--send-flag",
        metavar="F",
        action="append",
        default=[],
        help="another flag for zfs send, as in --send-flag=-L",
    )
    parser.add_argument(
        "--compression-level", metavar="N", type=int, default=3, help="zstd, 1 to 19"
    )
    parser.add_argument(
        "--no-index",
        action="store_true",
        help="leave out the index of files; it is then made by who first looks inside",
    )
    parser.add_argument("--bwlimit", metavar="RATE", help="as in 5M, bytes a second")
    _object_lock(parser)
    parser.add_argument(
        "--recipient",
        metavar="R",
        help="the vault recipient from the recovery kit; needed once on a machine "
        "that did not make the vault",
    )
    _dry_run(parser)


def _add_list(commands: Any) -> None:  # noqa: ANN401
    parser = _command(commands, "list", "what a vault holds", "backup_read:list_vault")
    parser.add_argument("vault", metavar="VAULT")
    _reading(parser)


def _add_verify(commands: Any) -> None:  # noqa: ANN401
    parser = _command(
        commands,
        "verify",
        "prove that every object is there, whole and unaltered",
        "backup_read:verify_vault",
    )
    parser.add_argument("vault", metavar="VAULT")
    parser.add_argument("archives", metavar="ARCHIVE", nargs="*")
    parser.add_argument(
        "--level",
        choices=["listing", "hash", "decrypt"],
        default="hash",
        help="listing: names, counts, signatures; hash (default): every object's "
        "SHA-256, made where the vault lies; decrypt: everything read back",
    )
    parser.add_argument(
        "--fetch",
        action="store_true",
        help="read objects back and hash them here, for a far end that may lie",
    )
    _reading(parser)


def _add_restore(commands: Any) -> None:  # noqa: ANN401
    parser = _command(
        commands,
        "restore",
        "get a snapshot back, after checking all of it",
        "backup_restore:restore_archive",
    )
    parser.add_argument("vault", metavar="VAULT")
    parser.add_argument("wanted", metavar="DATASET@SNAPSHOT|ARCHIVE")
    parser.add_argument("target", metavar="TARGET-DATASET", nargs="?")
    parser.add_argument("-o", "--output", metavar="FILE", help="a new file, or -")
    parser.add_argument(
        "--force", action="store_true", help="let zfs receive roll the target back (-F)"
    )
    parser.add_argument(
        "--receive-flag",
        metavar="F",
        action="append",
        default=[],
        help="another flag for zfs receive, as in --receive-flag=-u",
    )
    _reading(parser)
    _dry_run(parser)


def _add_kit(commands: Any) -> None:  # noqa: ANN401
    parser = _command(
        commands,
        "kit",
        "the page to print and keep away from the vault",
        "backup_kit:kit",
    )
    parser.add_argument("vault", metavar="VAULT")


def _add_clean(commands: Any) -> None:  # noqa: ANN401
    parser = _command(
        commands,
        "clean",
        "remove what interrupted sends have left",
        "backup_read:clean_vault",
    )
    parser.add_argument("vault", metavar="VAULT")
    parser.add_argument(
        "--others",
        action="store_true",
        help="also what other machines began; be sure that none is sending",
    )
    parser.add_argument(
        "--resumable",
        action="store_true",
        help="also what a repeated send would go on with",
    )
    _signer(parser)
    _dry_run(parser)


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="default: ~/.config/standfast/backup.toml where there is one, otherwise "
        "/etc/standfast/backup.toml, on FreeBSD below /usr/local/etc",
    )


def _add_run(commands: Any) -> None:  # noqa: ANN401
    parser = _command(
        commands,
        "run",
        "do what is due by the configuration: snapshots, sends, verification",
        "backup_run:run",
    )
    parser.add_argument("jobs", metavar="JOB", nargs="*", help="default: all")
    _config(parser)
    parser.add_argument("--force", action="store_true", help="also what is not due")
    _dry_run(parser)


def _add_check_config(commands: Any) -> None:  # noqa: ANN401
    parser = _command(
        commands,
        "check-config",
        "check the configuration, and say what it asks for",
        "backup_run:check_config",
    )
    _config(parser)


def _add_marks(commands: Any) -> None:  # noqa: ANN401
    text = "our bookmarks, holds and properties"
    parser = commands.add_parser(
        "marks", help=text, description=text, epilog=EXIT_STATUS
    )
    inner = parser.add_subparsers(metavar="COMMAND", required=True)
    listed = _command(inner, "list", "show them", "backup_marks:list_marks")
    released = _command(
        inner,
        "release",
        "take those of one vault away; what it has stays there",
        "backup_marks:release_marks",
    )
    for each in (listed, released):
        each.add_argument("datasets", metavar="DATASET", nargs="+")
        each.add_argument("--vault", metavar="VAULT", help="an address, or an id")
    _dry_run(released)


MONITORING = """
EXIT STATUS
  0 ok   1 warning   2 critical, or a mistake in the call or the configuration
  3 unknown; of several the worst   130 interrupted; any other: unknown
"""


def _add_status(commands: Any) -> None:  # noqa: ANN401
    parser = _command(
        commands,
        "status",
        "how well the backups are; for people and for monitors",
        "backup_status:status",
    )
    parser.epilog = MONITORING
    _config(parser)
    parser.add_argument(
        "--offline",
        action="store_true",
        help="ask no vault; go by what this machine remembers",
    )
    parser.add_argument(
        "--textfile",
        metavar="FILE",
        help="write it for Prometheus too, as in .../textfile/standfast.prom",
    )
