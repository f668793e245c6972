"""`standfast tune`: flags to facts, facts to verdict, verdict to exit status.

The commands that draw, advise and watch live beside it in modules of their own; what
takes time to import is imported by the command that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast.cli import tune_advice, tune_show
from standfast.cli.tune_facts import (
    DONE,
    add_command,
    add_facts_flags,
    gather,
    say,
    say_json,
)
from standfast.tune import facts as facts_module
from standfast.tune import text
from standfast.tune.plan import judge

if TYPE_CHECKING:
    import argparse

    from standfast.cli.tune_facts import Commands


def add_parsers(area_parser: argparse.ArgumentParser) -> None:
    """Add the commands of `standfast tune`."""
    area_parser.description = (
        "Know before the reboot whether these ZFS memory settings boot."
    )
    commands = area_parser.add_subparsers(dest="command", required=True)
    _check_parser(commands)
    _facts_parser(commands)
    tune_advice.add_recommend(commands)
    tune_advice.add_trial(commands)
    tune_show.add_show(commands)
    tune_show.add_sweep(commands)
    tune_show.add_watch(commands)


def _check_parser(commands: Commands) -> None:
    parser = add_command(commands, "check", "Judge the settings; nothing is changed.")
    add_facts_flags(parser)
    parser.set_defaults(run=check)


def check(args: argparse.Namespace) -> int:
    """Judge and say so; the exit status is the verdict's."""
    report = judge(gather(args))
    if args.json:
        say_json(text.report_json(report))
    else:
        say(text.report_lines(report))
    return int(report.verdict.status)


def _facts_parser(commands: Commands) -> None:
    parser = add_command(commands, "facts", "Print the facts, to be saved and judged.")
    add_facts_flags(parser)
    parser.set_defaults(run=show_facts)


def show_facts(args: argparse.Namespace) -> int:
    """Print the facts as JSON."""
    say_json(facts_module.to_json(gather(args)))
    return DONE
