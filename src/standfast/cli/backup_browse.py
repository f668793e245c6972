"""The flags of the commands that look inside archives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    # (commands, name, summary, module:function) -> parser
    Command = Callable[..., argparse.ArgumentParser]
    Reading = Callable[[argparse.ArgumentParser], None]


def add_browse(commands: Any, command: Command, reading: Reading) -> None:  # noqa: ANN401 - argparse's class is private
    """Add ls, find, diff, cat, extract and mount."""
    _add_ls(commands, command, reading)
    _add_find(commands, command, reading)
    _add_diff(commands, command, reading)
    _add_cat(commands, command, reading)
    _add_extract(commands, command, reading)
    _add_mount(commands, command, reading)


def opening(parser: argparse.ArgumentParser, reading: Reading) -> None:
    """Add the flags of what reads archives' contents."""
    reading(parser)
    parser.add_argument(
        "--dataset-key",
        metavar="FILE",
        action="append",
        default=[],
        help="the passphrase or key of an encrypted dataset, for what was sent --raw",
    )


def _point(parser: argparse.ArgumentParser, **keywords: str) -> None:
    parser.add_argument("point", metavar="DATASET@SNAPSHOT|ARCHIVE", **keywords)  # type: ignore[arg-type]


def _add_ls(commands: Any, command: Command, reading: Reading) -> None:  # noqa: ANN401
    parser = command(
        commands, "ls", "list points in time, or files in one", "backup_ls:ls"
    )
    parser.add_argument("vault", metavar="VAULT")
    _point(parser, nargs="?", help="without it, the points are listed")
    parser.add_argument("path", metavar="PATH", nargs="?", default="")
    parser.add_argument(
        "-r", "--recursive", action="store_true", help="all below it as well"
    )
    parser.add_argument(
        "--names", action="store_true", help="names alone; quick in huge folders"
    )
    opening(parser, reading)


def _add_find(commands: Any, command: Command, reading: Reading) -> None:  # noqa: ANN401
    parser = command(
        commands,
        "find",
        "in which points does a file exist, and which differ",
        "backup_find:find",
    )
    parser.add_argument("vault", metavar="VAULT")
    parser.add_argument(
        "pattern",
        metavar="PATTERN",
        help="a name with * ? [...]; with a slash in it, a whole path",
    )
    parser.add_argument(
        "--in",
        dest="within",
        metavar="DATASET[@SNAPSHOT]",
        help="look there alone; a dataset with those below it",
    )
    opening(parser, reading)


def _add_diff(commands: Any, command: Command, reading: Reading) -> None:  # noqa: ANN401
    parser = command(
        commands, "diff", "what changed between two points", "backup_diff:diff"
    )
    parser.add_argument("vault", metavar="VAULT")
    parser.add_argument("first", metavar="DATASET@SNAPSHOT")
    parser.add_argument("second", metavar="DATASET@SNAPSHOT")
    opening(parser, reading)


def _add_cat(commands: Any, command: Command, reading: Reading) -> None:  # noqa: ANN401
    parser = command(commands, "cat", "print one file", "backup_cat:cat")
    parser.add_argument("vault", metavar="VAULT")
    _point(parser)
    parser.add_argument("path", metavar="PATH")
    opening(parser, reading)


def _add_extract(commands: Any, command: Command, reading: Reading) -> None:  # noqa: ANN401
    parser = command(
        commands,
        "extract",
        "take files out, without a pool and without ZFS",
        "backup_extract:extract",
    )
    parser.add_argument("vault", metavar="VAULT")
    _point(parser)
    parser.add_argument(
        "paths", metavar="PATH", nargs="*", help="files or folders; default: all"
    )
    parser.add_argument(
        "--to",
        metavar="PLACE",
        required=True,
        help="a folder, where each PATH keeps its own path; for a volume a new file",
    )
    parser.add_argument("--devices", action="store_true", help="make device nodes too")
    parser.add_argument(
        "--no-owners",
        action="store_true",
        help="leave all to whoever runs this; only root can give files away",
    )
    opening(parser, reading)


def _add_mount(commands: Any, command: Command, reading: Reading) -> None:  # noqa: ANN401
    parser = command(
        commands,
        "mount",
        "every snapshot as a folder, read-only, until it is unmounted",
        "backup_mount:mount_vault",
    )
    parser.add_argument("vault", metavar="VAULT")
    parser.add_argument("folder", metavar="FOLDER", help="an empty one")
    opening(parser, reading)
