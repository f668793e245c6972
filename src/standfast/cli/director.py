"""``standfast director ...``: the flags of each command, and where it leads."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from standfast.cli import Parser

EXIT_STATUS = """
EXIT STATUS
  0 done   1 failed, or refused   2 usage or configuration   130 interrupted
"""
SOCKET = "/run/standfast-director.sock"
CONFIG = "/etc/standfast/director.toml"


def add_parsers(area: argparse.ArgumentParser) -> None:
    """Add every command of the area."""
    area.epilog = EXIT_STATUS
    commands = area.add_subparsers(metavar="COMMAND", required=True)
    _add_run(commands)
    _add_check(commands)
    _add_status(commands)
    _add_orders(commands)
    _add_where(commands)
    _add_upgrade(commands)
    _add_lab(commands)


def _command(
    commands: Any,  # noqa: ANN401 - argparse's class is private
    name: str,
    summary: str,
    where: str,
) -> Parser:
    parser: Parser = commands.add_parser(
        name, help=summary, description=summary, epilog=EXIT_STATUS
    )
    common = parser.add_argument_group("every command")
    common.add_argument("--json", action="store_true", help="print one JSON document")
    common.add_argument("-q", "--quiet", action="store_true", help="errors only")
    common.add_argument("-v", "--verbose", action="count", default=0, help="say more")
    parser.set_defaults(run=lambda arguments: _run(where, arguments))
    return parser


def _run(where: str, arguments: argparse.Namespace) -> int:
    module, _, function = where.partition(":")
    command = getattr(import_module(f"standfast.cli.{module}"), function)
    status: int = command(arguments)
    return status


def _socket(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--socket", metavar="PATH", default=SOCKET, help=f"default {SOCKET}"
    )


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", metavar="FILE", default=CONFIG, help=f"default {CONFIG}"
    )


def _add_run(commands: Any) -> None:  # noqa: ANN401
    parser = _command(
        commands, "run", "probe, decide, steer, elect; for ever", "director_run:run"
    )
    _config(parser)
    parser.add_argument(
        "--syslog",
        metavar="PLACE",
        nargs="?",
        const="",
        help="log to syslog here, at a socket's path, or at HOST:PORT",
    )


def _add_check(commands: Any) -> None:  # noqa: ANN401
    parser = _command(
        commands,
        "check",
        "check the configuration and this host, and show the rules",
        "director_check:check",
    )
    _config(parser)


def _add_status(commands: Any) -> None:  # noqa: ANN401
    parser = _command(commands, "status", "what serves, and why", "director_ask:status")
    _socket(parser)
    parser.add_argument("--watch", action="store_true", help="show it anew each second")


def _add_orders(commands: Any) -> None:  # noqa: ANN401
    drain = _command(
        commands,
        "drain",
        "give a backend no new connections; the others live on",
        "director_ask:drain",
    )
    drain.add_argument("--wait", action="store_true", help="until none is left")
    drain.add_argument(
        "--deadline", metavar="T", default="", help="then cut what is left, as in 5m"
    )
    undrain = _command(
        commands, "undrain", "let a backend serve again", "director_ask:undrain"
    )
    disable = _command(
        commands, "disable", "keep a backend out, until undrain", "director_ask:disable"
    )
    for parser in (drain, undrain, disable):
        parser.add_argument("backend", metavar="BACKEND")
        parser.add_argument(
            "--force", action="store_true", help="even the last that serves"
        )
        _socket(parser)
    release = _command(
        commands,
        "release",
        "after a stop: remove addresses that a dead daemon left, if the peer serves",
        "director_run:release",
    )
    _config(release)
    release.add_argument(
        "--wait",
        metavar="T",
        default="",
        help="how long to listen for the peer; default until it must have taken over",
    )
    standby = _command(
        commands,
        "standby",
        "give the addresses up to the peer, and keep away from them",
        "director_ask:standby",
    )
    standby.add_argument(
        "--force", action="store_true", help="even if nobody else can hold them"
    )
    _socket(standby)
    resume = _command(
        commands, "resume", "let this director hold them again", "director_ask:resume"
    )
    _socket(resume)
    reload = _command(
        commands, "reload", "read the configuration anew", "director_ask:reload"
    )
    _socket(reload)


def _add_where(commands: Any) -> None:  # noqa: ANN401
    parser = _command(
        commands, "where", "where a client's connection goes", "director_ask:where"
    )
    parser.add_argument("client", metavar="ADDR:PORT")
    _socket(parser)


def _add_upgrade(commands: Any) -> None:  # noqa: ANN401
    parser = _command(
        commands,
        "upgrade",
        "one backend after the other: drain, stop softly, run COMMAND, undrain",
        "director_upgrade:upgrade",
    )
    parser.usage = "standfast director upgrade [BACKEND...] [FLAG...] -- COMMAND..."
    parser.rest = "command"
    parser.add_argument("backends", metavar="BACKEND", nargs="*", help="default: all")
    parser.add_argument(
        "--each",
        metavar="COMMAND",
        default="",
        help="instead of -- COMMAND: one line for /bin/sh; in both, and in the other "
        "commands, {name} and {address} are filled in",
    )
    parser.add_argument(
        "--soft-stop",
        metavar="COMMAND",
        default="",
        help="before it, as in 'pkill -USR1 -o haproxy'",
    )
    parser.add_argument(
        "--ssh",
        metavar="HOST",
        default="",
        help="run both there: [user@]host[:port], as in 'root@{address}'",
    )
    parser.add_argument(
        "--check-url",
        metavar="URL",
        default="",
        help="watch this page, through a virtual address that this host can reach; "
        "without it each backend's own page is watched",
    )
    for flag, default, words in (
        ("--deadline", "1m", "for each stage"),
        ("--settle", "300ms", "between drain and soft stop, for what is on its way"),
        ("--baseline", "1s", "watch before the first, to know what is usual"),
        ("--soak", "2s", "watch a backend that serves again, before the next"),
    ):
        parser.add_argument(
            flag, metavar="T", default=default, help=f"{words}; default {default}"
        )
    parser.add_argument(
        "--errors",
        metavar="N",
        type=int,
        default=0,
        help="stop when more than N errors come in a turn, beyond the usual; default 0",
    )
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="show what would be run"
    )
    _socket(parser)


def _add_lab(commands: Any) -> None:  # noqa: ANN401
    parser = _command(
        commands,
        "lab",
        "the whole thing in network namespaces of this machine, measured",
        "director_lab:lab",
    )
    parser.add_argument("scenarios", metavar="SCENARIO", nargs="*", help="default: all")
    parser.add_argument("--list", action="store_true", help="name the scenarios")
    parser.add_argument(
        "--serial", action="store_true", help="one after the other, no two at once"
    )
