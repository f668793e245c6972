"""The flags of the commands for what a vault's host does: proving, and serving."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    # (commands, name, summary, module:function) -> parser
    Command = Callable[..., argparse.ArgumentParser]
    Flags = Callable[[argparse.ArgumentParser], None]


def add_far(commands: Any, command: Command, signer: Flags, dry_run: Flags) -> None:  # noqa: ANN401 - argparse's class is private
    """Add audit and serve."""
    _add_audit(commands, command, signer, dry_run)
    _add_serve(commands, command)


def _add_audit(commands: Any, command: Command, signer: Flags, dry_run: Flags) -> None:  # noqa: ANN401
    parser = command(
        commands,
        "audit",
        "have the host prove that it has what was sent, without a key",
        "backup_audit:audit_vault",
    )
    parser.add_argument("vault", metavar="VAULT")
    parser.add_argument(
        "--objects",
        metavar="N",
        default="16",
        help="how many objects one audit asks for (default 16)",
    )
    parser.add_argument(
        "--loss",
        metavar="PERCENT",
        default="5",
        help="say how probably a loss of so much goes unseen (default 5)",
    )
    signer(parser)
    dry_run(parser)


def _add_serve(commands: Any, command: Command) -> None:  # noqa: ANN401
    parser = command(
        commands,
        "serve",
        "the forced command of a key that may add to a vault, and nothing else",
        "backup_serve:serve",
    )
    parser.add_argument(
        "--append-only",
        metavar="DIR",
        required=True,
        help="the vault; the key reaches nothing else",
    )
    parser.add_argument(
        "--sender",
        metavar="NAME",
        default="sender",
        help="whose key it is: unfinished archives belong to their sender",
    )
    parser.add_argument(
        "--allow-read",
        action="store_true",
        help="segments, manifests and the sealed identity may be read as well",
    )
    parser.add_argument(
        "--log", metavar="FILE", help="where refusals are noted (default: syslog)"
    )
    parser.set_defaults(run=_serve)


def _serve(arguments: argparse.Namespace) -> int:
    """Serve without a session: it starts for every request."""
    from standfast.cli.backup_serve import serve  # noqa: PLC0415 - quick --help

    return serve(arguments)
