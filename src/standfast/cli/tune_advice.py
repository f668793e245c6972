"""`standfast tune recommend` and `trial`: what to set instead, and how to try it.

Nothing is written without --write, and then at once, with the old file kept.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from standfast.cli.tune_facts import (
    add_command,
    add_facts_flags,
    gather,
    read_text,
    say,
    say_json,
    size_of,
)
from standfast.errors import UsageError
from standfast.tune import text
from standfast.tune.plan import judge

if TYPE_CHECKING:
    import argparse

    from standfast.cli.tune_facts import Commands
    from standfast.tune.model import Facts
    from standfast.tune.recommend import Recommendation


def add_recommend(commands: Commands) -> None:
    """Add `recommend`."""
    parser = add_command(commands, "recommend", "Say what to set instead, and why.")
    add_facts_flags(parser)
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
    result = advise(facts, Role(args.role), reserve=size_of(args.reserve))
    target = _target(args, facts)
    if args.json:
        say_json(_recommendation_json(result))
    else:
        say(_recommendation_lines(result))
    if target is not None:
        _diff_or_write(args, facts, result, target)
    return int(result.report.verdict.status)


OWN_FILE = {
    "freebsd": Path("/boot/loader.conf"),
    "linux": Path("/etc/modprobe.d/zfs.conf"),
}


def _target(args: argparse.Namespace, facts: Facts) -> Path | None:
    """Return the file to compare with and to write: the one named, or this host's."""
    names = args.modprobe_conf if facts.os == "linux" else args.loader_conf
    if len(names) == 1 and names[0] != "-":
        return Path(names[0])
    if not names and not (args.host or args.facts or args.os):
        return OWN_FILE[facts.os]
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
    lines += [
        f"# not kept: {d.setting.name}={d.setting.text}: {d.why}"
        for d in result.dropped
    ]
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

    _check_elsewhere(args, facts, result, target)
    old = read_text(str(target)) if target.exists() else ""
    new = apply_to_text(facts, result, old)
    if not args.json:
        diff = unified_diff(
            old.splitlines(), new.splitlines(), str(target), "recommended", lineterm=""
        )
        say(["", *diff])
    if args.write and new != old:
        kept = write_kept(target, new)
        said = f"; the old one is {kept}" if kept else ""
        print(f"standfast: wrote {target}{said}", file=sys.stderr)  # noqa: T201


def _check_elsewhere(
    args: argparse.Namespace, facts: Facts, result: Recommendation, target: Path
) -> None:
    """Refuse to write a file whose settings another file would override."""
    changed = {one.setting.name for one in result.advice if not one.kept}
    present = facts.settings if facts.meant is None else facts.meant
    for setting in present:
        if setting.name in changed and setting.file not in {"", str(target)}:
            what = f"{setting.name} is also set in {setting.place}, which may win"
            if args.write:
                raise UsageError(what, hint="take it out there first")
            print(f"standfast: note: {what}", file=sys.stderr)  # noqa: T201


def write_kept(target: Path, content: str) -> Path | None:
    """Replace a file at once; return the name under which the old one is kept.

    The new text is on disk before the name changes, and the mode stays. There is
    nothing to keep, and None is returned, when there was no such file.

    Raises:
        UsageError: the file or its folder cannot be written.
    """
    fresh = target.with_name(f".{target.name}.tune-new")
    try:
        kept = _spare_name(target) if target.exists() else None
        mode = target.stat().st_mode & 0o7777 if kept else 0o644
        with fresh.open("w", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.chmod(mode)
        if kept:
            os.link(target, kept)
        fresh.replace(target)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise UsageError(f"cannot write {target}: {error.strerror}") from None
    return kept


def _spare_name(target: Path) -> Path:
    number = 0
    while True:
        kept = target.with_name(f"{target.name}.before-tune{number or ''}")
        if not kept.exists():
            return kept
        number += 1


def add_trial(commands: Commands) -> None:
    """Add `trial`."""
    parser = add_command(commands, "trial", "Say how to try settings and get back out.")
    add_facts_flags(parser)
    parser.add_argument(
        "--boot",
        choices=("zfs", "ufs", "unknown"),
        default="unknown",
        help="/boot is on",
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
