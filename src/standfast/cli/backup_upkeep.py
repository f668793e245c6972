"""The flags of ``standfast backup prune``, ``signer`` and ``rewrap``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    Adder = Callable[[argparse.ArgumentParser], Any]


def add_upkeep(
    commands: Any,  # noqa: ANN401 - argparse's class is private
    command: Callable[..., argparse.ArgumentParser],
    adders: tuple[Adder, Adder, Adder, Adder],
) -> None:
    """Add the commands.

    Args:
        commands: where to.
        command: makes the parser of one.
        adders: of the flags for owners, for keys, for reading, and of --dry-run.
    """
    owners, keys, reading, dry_run = adders
    pruned = _add_prune(commands, command)
    reading(pruned)
    dry_run(pruned)
    dry_run(_add_signer(commands, command))
    rewrapped = _add_rewrap(commands, command, owners)
    keys(rewrapped)
    dry_run(rewrapped)


def _add_prune(
    commands: Any,  # noqa: ANN401
    command: Callable[..., argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    parser = command(
        commands,
        "prune",
        "remove what no rule keeps, never what a kept archive needs",
        "backup_prune:prune",
    )
    parser.add_argument("vault", metavar="VAULT")
    rules = parser.add_argument_group(
        "what to keep, of each dataset (times are when this machine first saw it)"
    )
    rules.add_argument(
        "--keep-last", metavar="N", type=int, default=0, help="all of the last N days"
    )
    for unit in ("hour", "day", "week", "month", "year"):
        rule = "daily" if unit == "day" else f"{unit}ly"
        rules.add_argument(
            f"--keep-{rule}",
            metavar="N",
            type=int,
            default=0,
            help=f"the first of each of the last N {unit}s that have one",
        )
    rules.add_argument(
        "--keep-within", metavar="TIME", default="0", help="all so young, as in 14d"
    )
    rules.add_argument(
        "--minimum", metavar="N", type=int, default=1, help="days at least (default 1)"
    )
    rules.add_argument(
        "--min-age",
        metavar="TIME",
        default="1d",
        help="nothing so young is removed, whatever else (default 1d)",
    )
    parser.add_argument(
        "--drop",
        metavar="ARCHIVE",
        action="append",
        default=[],
        help="remove this one by name; also one that is damaged or lost",
    )
    parser.add_argument(
        "--max-remove",
        metavar="N",
        help="refuse to remove more in one run: a number, or a share as in 30%% "
        "(default: half of all, or 25)",
    )
    parser.add_argument(
        "--observe", action="store_true", help="look and remember, remove nothing"
    )
    parser.add_argument(
        "--trust-times",
        action="store_true",
        help="believe the times that senders signed, for what was there before this "
        "machine first looked",
    )
    return parser


def _add_signer(
    commands: Any,  # noqa: ANN401
    command: Callable[..., argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    summary = "whose signatures count: add, list, revoke"
    parser = commands.add_parser("signer", help=summary, description=summary)
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_signer_add(actions, command)
    shown = command(actions, "list", "show them", "backup_signer:list_signers")
    shown.add_argument("vault", metavar="VAULT")
    gone = command(
        actions,
        "revoke",
        "let a key count no more, except for what was seen of it",
        "backup_signer:revoke_signer",
    )
    gone.add_argument("vault", metavar="VAULT")
    gone.add_argument("key", metavar="KEY|NAME")
    gone.add_argument(
        "--after",
        metavar="N",
        type=int,
        help="the last number that counts; default: the last that was seen",
    )
    return gone


def _add_signer_add(
    actions: Any,  # noqa: ANN401
    command: Callable[..., argparse.ArgumentParser],
) -> None:
    parser = command(
        actions, "add", "trust a key, or all that a kit names", "backup_signer:add"
    )
    parser.add_argument("vault", metavar="VAULT")
    parser.add_argument("key", metavar="KEY", nargs="?", help="RW... or a .pub file")
    parser.add_argument("--name", default="", help="what to call it")
    parser.add_argument(
        "--role",
        choices=["sender", "pruner", "owner"],
        default="sender",
        help="sender adds archives (default), pruner states removals, owner signs the "
        "vault's own files",
    )
    parser.add_argument(
        "--replaces", metavar="KEY|NAME", help="the key that machine had before"
    )
    parser.add_argument(
        "--recipient",
        metavar="R",
        help="the vault recipient from the kit, on a machine that does not know it",
    )
    parser.add_argument("--kit", metavar="FILE", help="the recovery kit")


def _add_rewrap(
    commands: Any,  # noqa: ANN401
    command: Callable[..., argparse.ArgumentParser],
    add_owners: Adder,
) -> argparse.ArgumentParser:
    parser = command(
        commands,
        "rewrap",
        "let other keys open a vault; no archive is touched",
        "backup_rewrap:rewrap_vault",
    )
    parser.add_argument("vault", metavar="VAULT")
    owners = add_owners(parser)
    owners.add_argument(
        "--new-passphrase-file", metavar="F", help="a passphrase, first line; no others"
    )
    parser.add_argument(
        "--rotate",
        action="store_true",
        help="also make a new vault identity, for what is sent from now on",
    )
    return parser
