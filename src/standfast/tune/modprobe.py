r"""modprobe.d files and sysctl.conf: `options zfs NAME=VALUE` and `name=value`.

Linux takes module parameters as C integers: decimal, 0x or octal, no suffix; the
kernel refuses anything else and then refuses to load the module at all. Files are
read in the order given, later settings win, `\\` at the end of a line continues it.
Pure: the caller reads the files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from standfast.tune.model import Finding, Setting, Severity
from standfast.tune.release import Release  # noqa: TC001 - part of a signature
from standfast.tune.rules import names

SOURCE = "modprobe.d(5); kernel parameter parsing (kstrtoull, base 0)"
SYSCTL_SOURCE = "sysctl.conf(5); rule: names of tunables"

_NUMBER = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")


@dataclass(frozen=True)
class Parsed:
    """Settings and what to say about the lines."""

    settings: tuple[Setting, ...]
    notes: tuple[Finding, ...]


def parse(text: str, *, file: str) -> Parsed:
    """Return the options of the modules zfs and spl in one file."""
    settings: list[Setting] = []
    notes: list[Finding] = []
    for number, line in _logical_lines(text):
        words = line.split()
        place = f"{file}:{number}"
        if len(words) > 1 and words[0] == "options" and words[1] in {"zfs", "spl"}:
            _options(words[2:], file, number, settings, notes)
        elif words[0] == "options" and len(words) > 1 and "zfs" in words[1]:
            what = f"module {words[1]} is not `zfs`: these options go nowhere"
            notes.append(Finding(Severity.WARNING, what, place, SOURCE))
        elif "=" in words[0] and words[0].startswith("zfs_"):
            what = "`options zfs` is missing in front: modprobe ignores the line"
            notes.append(Finding(Severity.WARNING, what, place, SOURCE))
    return Parsed(tuple(settings), tuple(notes))


def number(text: str) -> int | None:
    """Return what the kernel takes a module parameter for, or None."""
    if _NUMBER.fullmatch(text) is None:
        return None
    digits = text.lstrip("+-")
    octal = digits.startswith("0") and digits[1:2] not in {"x", "X"}
    value = int(digits, 8 if octal else 0)
    return -value if text.startswith("-") else value


def no_number(setting: Setting) -> Finding:
    """Return what to say of a parameter that the kernel refuses."""
    what = (
        f"{setting.name}={setting.text}: whole bytes only, no suffix and no quotes;"
        " the module will not load"
    )
    return Finding(Severity.FATAL, what, setting.place, SOURCE)


def parse_sysctl(text: str, *, file: str, release: Release | None) -> Parsed:
    """Return sysctl.conf settings; boot-only ones come too late, which is a note."""
    settings: list[Setting] = []
    notes: list[Finding] = []
    for at, line in enumerate(text.splitlines(), 1):
        name, sign, value = line.split("#", 1)[0].partition("=")
        name, value = name.strip(), value.strip().strip('"')
        if not sign or not name:
            continue
        if release is not None and names.boot_only(release, name):
            what = f"{name} is read at boot only: in sysctl.conf it is too late"
            notes.append(Finding(Severity.IGNORED, what, f"{file}:{at}", SYSCTL_SOURCE))
            continue
        settings.append(Setting(name, value, file, at))
    return Parsed(tuple(settings), tuple(notes))


def render(settings: tuple[Setting, ...]) -> str:
    """Return modprobe.d lines that read back as these settings."""
    return "".join(f"options zfs {s.name}={s.text}\n" for s in settings)


def _logical_lines(text: str) -> list[tuple[int, str]]:
    lines: list[tuple[int, str]] = []
    begun, kept = 0, ""
    for number_, raw in enumerate(text.splitlines(), 1):
        begun = begun or number_
        kept += raw.removesuffix("\\")
        if raw.endswith("\\"):
            kept += " "
            continue
        if line := kept.split("#", 1)[0].strip():
            lines.append((begun, line))
        begun, kept = 0, ""
    return lines


def _options(
    words: list[str],
    file: str,
    at: int,
    settings: list[Setting],
    notes: list[Finding],
) -> None:
    place = f"{file}:{at}"
    for word in words:
        name, sign, text = word.partition("=")
        if not sign:
            what = f"{name}: no `=` and value"
            notes.append(Finding(Severity.WARNING, what, place, SOURCE))
        elif number(text) is None:
            notes.append(no_number(Setting(name, text, file, at)))
        else:
            if any(earlier.name == name for earlier in settings):
                what = f"{name} is set again here, which wins"
                notes.append(Finding(Severity.WARNING, what, place, SOURCE))
            settings.append(Setting(name, text, file, at))
