"""The flags of ``standfast backup import-legacy`` and ``restore-legacy``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    Command = Callable[..., argparse.ArgumentParser]
    Flags = Callable[[argparse.ArgumentParser], None]


def add_old_script(
    commands: Any,  # noqa: ANN401 - argparse's class is private
    command: Command,
    dry_run: Flags,
) -> None:
    """Add both commands."""
    _add_import(commands, command, dry_run)
    _add_restore(commands, command, dry_run)


def _old_script(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--passphrase-file",
        metavar="F",
        required=True,
        help="what was typed for scrypt, first line",
    )
    parser.add_argument(
        "--max-memory",
        metavar="SIZE",
        default="2G",
        help="the most that checking the passphrase may take (default 2G)",
    )


def _add_import(commands: Any, command: Command, dry_run: Flags) -> None:  # noqa: ANN401
    parser = command(
        commands,
        "import-legacy",
        "bring the old script's NAME.gz.sc archives into a vault",
        "backup_legacy:import_legacy",
    )
    parser.add_argument("folder", metavar="DIR", help="where they lie, or one of them")
    parser.add_argument("vault", metavar="VAULT")
    _old_script(parser)
    parser.add_argument(
        "--compression-level", metavar="N", type=int, default=3, help="zstd, 1 to 19"
    )
    parser.add_argument("--recipient", metavar="R", help="as for send")
    dry_run(parser)


def _add_restore(commands: Any, command: Command, dry_run: Flags) -> None:  # noqa: ANN401
    parser = command(
        commands,
        "restore-legacy",
        "get a snapshot back from one of the old script's NAME.gz.sc archives",
        "backup_legacy:restore_legacy",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("target", metavar="TARGET-DATASET", nargs="?")
    parser.add_argument("-o", "--output", metavar="FILE", help="a new file, or -")
    _old_script(parser)
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
    dry_run(parser)
