"""The flags of ``standfast backup drill``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    Command = Callable[..., argparse.ArgumentParser]
    Flags = Callable[[argparse.ArgumentParser], None]


def add_drill(
    commands: Any,  # noqa: ANN401 - argparse's class is private
    command: Command,
    reading: Flags,
    dry_run: Flags,
) -> None:
    """Add the command."""
    parser = command(
        commands,
        "drill",
        "prove by restoring: whole chains, into a scratch dataset, compared",
        "backup_drill:drill_vault",
    )
    parser.add_argument("vault", metavar="VAULT")
    parser.add_argument(
        "--dataset",
        metavar="D",
        action="append",
        default=[],
        help="only this one; may be repeated",
    )
    parser.add_argument(
        "--sample", metavar="N", type=int, help="only the N longest unproven"
    )
    parser.add_argument(
        "--budget", metavar="TIME", help="begin no other one after this time"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--scratch",
        metavar="DATASET",
        help="restore below this one; default: the source's pool, if it is here",
    )
    where.add_argument(
        "--read", action="store_true", help="every check but the receiving; no ZFS"
    )
    parser.add_argument(
        "--no-compare", action="store_true", help="do not read the source as well"
    )
    reading(parser)
    dry_run(parser)
