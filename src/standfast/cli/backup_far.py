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
    """Add audit."""
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
