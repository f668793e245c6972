"""`standfast tune show`, `sweep` and `watch`: pictures, plots and the live screen."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from standfast.cli.tune_facts import (
    DONE,
    add_command,
    add_facts_flags,
    gather,
    open_host,
    read_text,
    say,
    say_json,
    write_text,
)
from standfast.errors import UsageError
from standfast.tune import facts as facts_module
from standfast.tune import text
from standfast.tune.plan import judge
from standfast.units import parse_size

if TYPE_CHECKING:
    import argparse

    from standfast.cli.tune_facts import Commands
    from standfast.clock import Clock
    from standfast.host import Host
    from standfast.tune.model import Facts


def add_show(commands: Commands) -> None:
    """Add `show`."""
    parser = add_command(commands, "show", "Draw the kernel's address space to scale.")
    add_facts_flags(parser)
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
        other = facts_module.from_json(read_text(args.beside), name=args.beside)
        columns.insert(0, Column(_title(other), judge(other)))
    for column in columns:
        if not column.report.layouts:
            raise UsageError(
                f"nothing to draw: {column.report.why}",
                hint="only i386 kernels of 7.0 to 11.x have a layout to draw",
            )
    if args.svg:
        write_text(args.svg, svg(columns))
    elif args.json:
        say_json([text.layout_json(column.layout) for column in columns])
    else:
        for column in columns:
            say(terminal(column))
    return int(columns[-1].report.verdict.status)


def _title(facts: Facts) -> str:
    ram = f", {facts.ram // 2**20} MiB RAM" if facts.ram else ""
    return f"FreeBSD {facts.release} {facts.arch}{ram}"


def add_sweep(commands: Commands) -> None:
    """Add `sweep`."""
    parser = add_command(commands, "sweep", "Plot the largest vm.kmem_size over RAM.")
    add_facts_flags(parser)
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
        write_text(args.svg, plot.svg(points, title=title))
    if args.json:
        say_json(
            [
                {
                    "ram": p.ram,
                    "kva_pages": p.kva_pages,
                    "hard": p.hard,
                    "roomy": p.roomy,
                }
                for p in points
            ]
        )
    elif args.csv and args.csv != "-":
        write_text(args.csv, plot.csv(points))
    elif args.csv or not args.svg:
        sys.stdout.write(plot.csv(points))
    return DONE


def add_watch(commands: Commands) -> None:
    """Add `watch`."""
    parser = add_command(commands, "watch", "Live ARC and kernel memory and limits.")
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
    host = open_host(args.host)
    try:
        _watch(args, host, SystemClock(), interval)
    except KeyboardInterrupt:
        return DONE
    finally:
        host.close()
    return DONE


def _watch(args: argparse.Namespace, host: Host, clock: Clock, interval: float) -> None:
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
