"""What every tune command needs: flags, the facts they ask for, and a voice.

Only here are the configuration files read that flags name.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from standfast.errors import ExitStatus, UsageError
from standfast.tune import facts as facts_module
from standfast.tune.model import Facts, Setting
from standfast.units import parse_size

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable

    from standfast.host import Host

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - the only name it has


DONE = int(ExitStatus.DONE)
EXITS = (
    "exit status: 0 boots, 20 thin or risky, 21 does not boot, 22 cannot tell,"
    " 2 usage or unreadable facts"
)
_URL = re.compile(r"ssh://(?:([^@/]+)@)?([^@/:]+|\[[0-9a-fA-F:]+\])(?::(\d+))?/?")


def add_command(commands: Commands, name: str, summary: str) -> argparse.ArgumentParser:
    """Return the parser of a new command, with --json and the exit statuses."""
    parser = commands.add_parser(name, help=summary, description=summary, epilog=EXITS)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def add_facts_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags from which `gather` makes facts."""
    where = parser.add_argument_group("where the facts come from (default: this host)")
    where.add_argument("--host", metavar="URL", help="ssh://[user@]host[:port]")
    where.add_argument("--facts", metavar="FILE", help="saved by `tune facts`")
    given = parser.add_argument_group("facts from flags (also replace others)")
    given.add_argument("--os", choices=("freebsd", "linux"))
    given.add_argument("--release", help="8.2-RELEASE; on Linux the OpenZFS version")
    given.add_argument("--arch", help="i386, i386-pae, amd64, arm64, or uname -m")
    given.add_argument("--ram", help="RAM installed: 4G")
    given.add_argument("--top", help="end of usable RAM, `real memory` of the boot")
    given.add_argument("--kva-pages", type=int, metavar="N")
    given.add_argument("--kernel-image", metavar="SIZE", help="kernel and modules")
    given.add_argument("--cpus", type=int, metavar="N", help="1 means no SMP kernel")
    given.add_argument("--no-zfs", action="store_true", help="ZFS is not used there")
    files = parser.add_argument_group(
        "files instead of the machine's own (may be repeated; later wins)"
    )
    files.add_argument("--loader-conf", action="append", default=[], metavar="FILE")
    files.add_argument("--kernel-config", action="append", default=[], metavar="FILE")
    files.add_argument("--modprobe-conf", action="append", default=[], metavar="FILE")
    files.add_argument("--sysctl-conf", action="append", default=[], metavar="FILE")
    files.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="settings"
    )


def gather(args: argparse.Namespace) -> Facts:
    """Return the facts that the flags ask for.

    Raises:
        UsageError: flags or files that cannot be read.
    """
    facts = _with_flags(_start(args), args)
    if args.loader_conf or args.modprobe_conf:
        # A file that is named stands for the machine's own, it does not add to it.
        facts = replace(facts, settings=(), meant=None, notes=())
    sources = facts_module.Sources(
        loader=_texts(args.loader_conf),
        kernel=_texts(args.kernel_config),
        modprobe=_texts(args.modprobe_conf),
        sysctl=_texts(args.sysctl_conf),
    )
    facts = facts_module.with_files(facts, sources, include=_includer(args))
    settings = tuple(_setting(item) for item in args.settings)
    if settings:
        meant = None if facts.meant is None else facts.meant + settings
        facts = replace(facts, settings=facts.settings + settings, meant=meant)
    return facts_module.check(facts)


def _start(args: argparse.Namespace) -> Facts:
    if args.facts:
        if args.host:
            raise UsageError("give --facts or --host, not both")
        return facts_module.from_json(read_text(args.facts), name=args.facts)
    if args.os:
        return Facts(os=args.os, origin="flags")
    if not args.host and (args.release or args.arch):
        raise UsageError(
            "facts from flags need an operating system", hint="add --os freebsd"
        )
    return _live(args)


def _live(args: argparse.Namespace) -> Facts:
    from standfast.tune.live import read_host  # noqa: PLC0415 - flags run nothing

    host = open_host(args.host)
    try:
        return read_host(host)
    finally:
        host.close()


def open_host(url: str | None) -> Host:
    """Return the machine that --host names; without it, this one."""
    if not url:
        from standfast.host.local import LocalHost  # noqa: PLC0415

        return LocalHost()
    from standfast.host.ssh import SshHost, SshTarget  # noqa: PLC0415

    match = _URL.fullmatch(url)
    if match is None:
        raise UsageError(f"not a host: {url}", hint="write ssh://user@host:port")
    user, host, port = match.groups()
    return SshHost(SshTarget(host.strip("[]"), user or "", int(port) if port else None))


def _with_flags(facts: Facts, args: argparse.Namespace) -> Facts:
    given = {
        "release": args.release,
        "arch": args.arch,
        "ram": size_of(args.ram),
        "top": size_of(args.top),
        "kva_pages": args.kva_pages,
        "image": size_of(args.kernel_image),
        "cpus": args.cpus,
        "zfs": False if args.no_zfs else None,
    }
    return replace(facts, **{k: v for k, v in given.items() if v is not None})


def size_of(value: str | None) -> int | None:
    """Return bytes for a size flag, None when it was not given."""
    return None if value is None else parse_size(value)


def _setting(item: str) -> Setting:
    name, sign, value = item.partition("=")
    if not sign or not name.strip():
        raise UsageError(f"not NAME=VALUE: {item}")
    return Setting(name.strip(), value.strip().strip('"'), "--set")


def _texts(names: Iterable[str]) -> list[tuple[str, str]]:
    return [(name, read_text(name)) for name in names]


def read_text(name: str) -> str:
    """Return the text of a file, or of standard input for ``-``.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        if name == "-":
            return sys.stdin.read()
        return Path(name).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from None


def _includer(args: argparse.Namespace) -> Callable[[str], str | None]:
    folders = [Path(name).parent for name in args.kernel_config]

    def include(name: str) -> str | None:
        for folder in folders:
            try:
                return (folder / name).read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
        return None

    return include


def say(lines: Iterable[str]) -> None:
    """Print lines on standard output."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def say_json(value: object) -> None:
    """Print one JSON value."""
    say([json.dumps(value, indent=2, ensure_ascii=False)])


def write_text(name: str, content: str) -> None:
    """Write a file that a flag named.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        Path(name).write_text(content, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {name}: {error.strerror}") from None
