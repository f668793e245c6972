"""`standfast tune`: flags to facts, facts to verdict, verdict to exit status.

Only here are tune's files read and written and its words printed. Each command is a
small function that returns the exit status; what takes time to import is imported
by the command that needs it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from standfast.errors import ExitStatus, UsageError
from standfast.tune import facts as facts_module
from standfast.tune import text
from standfast.tune.model import Facts, Setting
from standfast.tune.plan import judge
from standfast.units import parse_size

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from standfast.clock import Clock
    from standfast.host import Host
    from standfast.tune.recommend import Recommendation

EXITS = (
    "exit status: 0 boots, 20 thin or risky, 21 does not boot, 22 cannot tell,"
    " 2 usage or unreadable facts"
)

_URL = re.compile(r"ssh://(?:([^@/]+)@)?([^@/:]+|\[[0-9a-fA-F:]+\])(?::(\d+))?/?")


def add_parsers(area_parser: argparse.ArgumentParser) -> None:
    """Add the commands of `standfast tune`."""
    area_parser.description = (
        "Know before the reboot whether these ZFS memory settings boot."
    )
    commands = area_parser.add_subparsers(dest="command", required=True)
    _check_parser(commands)
    _facts_parser(commands)
    _recommend_parser(commands)
    _trial_parser(commands)
    _show_parser(commands)
    _sweep_parser(commands)
    _watch_parser(commands)


def _command(commands: Any, name: str, summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=summary, epilog=EXITS
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _facts_flags(parser: argparse.ArgumentParser) -> None:
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
    files = parser.add_argument_group("files (each may be given again; later wins)")
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
        return facts_module.from_json(_text(args.facts), name=args.facts)
    if args.os:
        return Facts(os=args.os, origin="flags")
    if args.release or args.arch or args.kva_pages:
        raise UsageError(
            "facts from flags need an operating system", hint="add --os freebsd"
        )
    return _live(args)


def _live(args: argparse.Namespace) -> Facts:
    from standfast.tune.live import read_host  # noqa: PLC0415 - flags run nothing

    host = _open(args.host)
    try:
        return read_host(host)
    finally:
        host.close()


def _open(url: str | None) -> Host:
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
        "ram": _size(args.ram),
        "top": _size(args.top),
        "kva_pages": args.kva_pages,
        "image": _size(args.kernel_image),
        "cpus": args.cpus,
        "zfs": False if args.no_zfs else None,
    }
    return replace(facts, **{k: v for k, v in given.items() if v is not None})


def _size(value: str | None) -> int | None:
    return None if value is None else parse_size(value)


def _setting(item: str) -> Setting:
    name, sign, value = item.partition("=")
    if not sign or not name.strip():
        raise UsageError(f"not NAME=VALUE: {item}")
    return Setting(name.strip(), value.strip().strip('"'), "--set")


def _texts(names: Iterable[str]) -> list[tuple[str, str]]:
    return [(name, _text(name)) for name in names]


def _text(name: str) -> str:
    try:
        if name == "-":
            return sys.stdin.read()
        return Path(name).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from None


def _includer(args: argparse.Namespace) -> Any:
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


def say_json(value: Any) -> None:
    """Print one JSON value."""
    say([json.dumps(value, indent=2, ensure_ascii=False)])


def _check_parser(commands: Any) -> None:
    parser = _command(commands, "check", "Judge the settings; nothing is changed.")
    _facts_flags(parser)
    parser.set_defaults(run=check)


def check(args: argparse.Namespace) -> int:
    """Judge and say so; the exit status is the verdict's."""
    report = judge(gather(args))
    if args.json:
        say_json(text.report_json(report))
    else:
        say(text.report_lines(report))
    return int(report.verdict.status)


DONE = int(ExitStatus.DONE)


def _facts_parser(commands: Any) -> None:
    parser = _command(commands, "facts", "Print the facts, to be saved and judged.")
    _facts_flags(parser)
    parser.set_defaults(run=show_facts)


def show_facts(args: argparse.Namespace) -> int:
    """Print the facts as JSON."""
    say_json(facts_module.to_json(gather(args)))
    return DONE


def _recommend_parser(commands: Any) -> None:
    parser = _command(commands, "recommend", "Say what to set instead, and why.")
    _facts_flags(parser)
    parser.add_argument(
        "--role", choices=("storage", "mixed", "desktop"), default="storage"
    )
    parser.add_argument("--reserve", metavar="SIZE", help="RAM kept from the ARC")
    parser.add_argument(
        "--write",
        action="store_true",
        help="write the one --loader-conf or --modprobe-conf file; the old one is kept",
    )
    parser.set_defaults(run=recommend)


def recommend(args: argparse.Namespace) -> int:
    """Print settings with reasons and a diff; write them only when asked."""
    from standfast.tune.recommend import Role  # noqa: PLC0415
    from standfast.tune.recommend import recommend as advise  # noqa: PLC0415

    facts = gather(args)
    result = advise(facts, Role(args.role), reserve=_size(args.reserve))
    target = _target(args, facts)
    if args.json:
        say_json(_recommendation_json(result))
    else:
        say(_recommendation_lines(result))
    if target is not None:
        _diff_or_write(args, facts, result, target)
    return int(result.report.verdict.status)


def _target(args: argparse.Namespace, facts: Facts) -> Path | None:
    names = args.modprobe_conf if facts.os == "linux" else args.loader_conf
    if len(names) == 1 and names[0] != "-":
        return Path(names[0])
    if not args.write:
        return None
    if args.host:
        raise UsageError(
            "tune writes no files on other machines",
            hint="copy the printed lines, or run it there",
        )
    raise UsageError(
        "--write needs the one file to write",
        hint="give one --loader-conf FILE, or one --modprobe-conf FILE on Linux",
    )


def _recommendation_lines(result: Recommendation) -> list[str]:
    lines = [f"# checks as: {result.report.verdict.value}; {result.report.why}"]
    for one in result.advice:
        lines.append(f"# {one.why}")
        linux = result.facts.os == "linux"
        setting = one.setting
        lines.append(
            f"options zfs {setting.name}={setting.text}"
            if linux
            else f'{setting.name}="{setting.text}"'
        )
    lines += [f"# not kept: {d.setting.name}={d.setting.text}: {d.why}" for d in result.dropped]
    lines += [f"# {note}" for note in result.notes]
    return lines


def _recommendation_json(result: Recommendation) -> dict[str, Any]:
    return {
        "settings": [
            {
                "name": one.setting.name,
                "value": one.setting.text,
                "why": one.why,
                "kept": one.kept,
            }
            for one in result.advice
        ],
        "dropped": [
            {"name": one.setting.name, "value": one.setting.text, "why": one.why}
            for one in result.dropped
        ],
        "notes": list(result.notes),
        "report": text.report_json(result.report),
    }


def _diff_or_write(
    args: argparse.Namespace, facts: Facts, result: Recommendation, target: Path
) -> None:
    from difflib import unified_diff  # noqa: PLC0415

    from standfast.tune.recommend import apply_to_text  # noqa: PLC0415

    old = _text(str(target))
    new = apply_to_text(facts, result, old)
    if not args.json:
        diff = unified_diff(
            old.splitlines(), new.splitlines(), str(target), "recommended", lineterm=""
        )
        say(["", *diff])
    if args.write and new != old:
        kept = write_kept(target, new)
        print(f"standfast: wrote {target}; the old one is {kept}", file=sys.stderr)  # noqa: T201


def write_kept(target: Path, content: str) -> Path:
    """Replace a file at once, keep the old one beside it, and return its name.

    The new text is on disk before the name changes, and the mode stays.

    Raises:
        UsageError: the file or its folder cannot be written.
    """
    number = 0
    while (kept := target.with_name(f"{target.name}.before-tune{number or ''}")).exists():
        number += 1
    fresh = target.with_name(f".{target.name}.tune-new")
    try:
        mode = target.stat().st_mode & 0o7777
        with fresh.open("w", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.chmod(mode)
        os.link(target, kept)
        fresh.replace(target)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise UsageError(f"cannot write {target}: {error.strerror}") from None
    return kept


def _trial_parser(commands: Any) -> None:
    parser = _command(commands, "trial", "Say how to try settings and get back out.")
    _facts_flags(parser)
    parser.add_argument(
        "--boot", choices=("zfs", "ufs", "unknown"), default="unknown", help="/boot is on"
    )
    parser.set_defaults(run=trial)


def trial(args: argparse.Namespace) -> int:
    """Print the ways to try; the exit status is the verdict on the settings."""
    from standfast.tune.trial import SOURCE, Boot, steps  # noqa: PLC0415

    facts = gather(args)
    report = judge(facts)
    wanted = facts.settings if facts.meant is None else facts.meant
    plan = steps(facts, wanted, boot=Boot(args.boot))
    if args.json:
        say_json(
            {
                "verdict": report.verdict.value,
                "ways": [
                    {
                        "name": way.name,
                        "returns": way.returns.value,
                        "why": way.why,
                        "steps": list(way.steps),
                        "undo": way.undo,
                    }
                    for way in plan.ways
                ],
                "rescue": list(plan.rescue),
                "source": SOURCE,
            }
        )
        return int(report.verdict.status)
    say([f"these settings check as: {report.verdict.value}; {report.why}"])
    for number, way in enumerate(plan.ways, 1):
        say(["", f"{number}. {way.name}: {way.returns.value} ({way.why})"])
        say(f"     {step}" for step in way.steps)
        say([f"   to take it back: {way.undo}"])
    say(["", "when it did not boot:", *(f"     {step}" for step in plan.rescue)])
    return int(report.verdict.status)


def _show_parser(commands: Any) -> None:
    parser = _command(commands, "show", "Draw the kernel's address space to scale.")
    _facts_flags(parser)
    parser.add_argument("--svg", metavar="FILE", help="write an SVG picture")
    parser.add_argument("--title", default="", help="a heading")
    parser.add_argument(
        "--beside", metavar="FILE", help="a facts file, drawn in a column to the left"
    )
    parser.set_defaults(run=show)


def show(args: argparse.Namespace) -> int:
    """Draw the layout; the exit status is the verdict's."""
    from standfast.tune.picture import Column, svg, terminal  # noqa: PLC0415

    facts = gather(args)
    columns = [Column(args.title or _title(facts), judge(facts))]
    if args.beside:
        other = facts_module.from_json(_text(args.beside), name=args.beside)
        columns.insert(0, Column(_title(other), judge(other)))
    for column in columns:
        if not column.report.layouts:
            raise UsageError(
                f"nothing to draw: {column.report.why}",
                hint="only i386 kernels of 7.0 to 11.x have a layout to draw",
            )
    if args.svg:
        _write(args.svg, svg(columns))
    elif args.json:
        say_json([text.layout_json(column.layout) for column in columns])
    else:
        for column in columns:
            say(terminal(column))
    return int(columns[-1].report.verdict.status)


def _title(facts: Facts) -> str:
    ram = f", {facts.ram // 2**20} MiB RAM" if facts.ram else ""
    return f"FreeBSD {facts.release} {facts.arch}{ram}"


def _write(name: str, content: str) -> None:
    try:
        Path(name).write_text(content, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {name}: {error.strerror}") from None


def _sweep_parser(commands: Any) -> None:
    parser = _command(commands, "sweep", "Plot the largest vm.kmem_size over RAM.")
    _facts_flags(parser)
    parser.add_argument(
        "--pages", default="256,512", metavar="N,N", help="KVA_PAGES to plot"
    )
    parser.add_argument("--most", default="4G", metavar="SIZE", help="RAM to go up to")
    parser.add_argument("--svg", metavar="FILE")
    parser.add_argument("--csv", metavar="FILE", help="- is standard output")
    parser.set_defaults(run=sweep)


def sweep(args: argparse.Namespace) -> int:
    """Write the plot and the table."""
    from standfast.tune import sweep as plot  # noqa: PLC0415
    from standfast.tune.model import MIB  # noqa: PLC0415

    facts = gather(args)
    try:
        pages = [int(word) for word in args.pages.split(",")]
    except ValueError:
        raise UsageError(f"not a list of numbers: {args.pages}") from None
    rams = list(range(256 * MIB, parse_size(args.most) + 1, 128 * MIB))
    points = plot.sweep(facts, kva_pages=pages, rams=rams)
    if args.svg:
        title = f"FreeBSD {facts.release} {facts.arch}: largest vm.kmem_size"
        _write(args.svg, plot.svg(points, title=title))
    if args.json:
        say_json(
            [
                {"ram": p.ram, "kva_pages": p.kva_pages, "hard": p.hard, "roomy": p.roomy}
                for p in points
            ]
        )
    elif args.csv and args.csv != "-":
        _write(args.csv, plot.csv(points))
    elif args.csv or not args.svg:
        sys.stdout.write(plot.csv(points))
    return DONE


def _watch_parser(commands: Any) -> None:
    parser = _command(commands, "watch", "Live ARC and kernel memory against limits.")
    parser.add_argument("--host", metavar="URL", help="ssh://[user@]host[:port]")
    parser.add_argument("--interval", default="2s", metavar="TIME")
    parser.add_argument("--count", type=int, default=0, help="stop after N samples")
    parser.add_argument(
        "--prometheus", metavar="FILE", help="write a textfile at each sample"
    )
    parser.set_defaults(run=watch)


def watch(args: argparse.Namespace) -> int:
    """Sample until interrupted; ctrl-C is the normal end."""
    from standfast.clock import SystemClock  # noqa: PLC0415
    from standfast.units import parse_duration  # noqa: PLC0415

    interval = parse_duration(args.interval)
    host = _open(args.host)
    try:
        _watch(args, host, SystemClock(), interval)
    except KeyboardInterrupt:
        return DONE
    finally:
        host.close()
    return DONE


def _watch(
    args: argparse.Namespace, host: Host, clock: Clock, interval: float
) -> None:
    from standfast.tune import watch as watching  # noqa: PLC0415
    from standfast.tune.live import read_host  # noqa: PLC0415

    before = None
    taken = 0
    while True:
        facts = read_host(host)
        now = watching.sample(facts, clock.now())
        if args.json:
            line = json.dumps(watching.as_json(facts, now, before))
            say([line])
        else:
            clear = "\x1b[H\x1b[2J" if sys.stdout.isatty() else ""
            sys.stdout.write(clear)
            say(watching.screen(facts, now, before))
        sys.stdout.flush()
        if args.prometheus:
            replace_text(Path(args.prometheus), watching.prometheus(facts, now, before))
        before = now
        taken += 1
        if taken == args.count:
            return
        clock.sleep(interval)


def replace_text(target: Path, content: str) -> None:
    """Replace a file at once, so that a reader never sees half of it."""
    fresh = target.with_name(f".{target.name}.new")
    try:
        fresh.write_text(content, encoding="utf-8")
        fresh.replace(target)
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}") from None
