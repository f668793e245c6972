"""loader.conf as the two FreeBSD loaders read it, line by line.

Forth (through 11.x; support.4th of 10.4R and 12.1R): name, `=`, then a quoted
value or a word of letters, digits, `.`, `_`, `-`. At the first line that is not so
the REST OF THE FILE is skipped; the boot goes on. Lua (the default from 12.0;
config.lua of 13c and later): a value is quoted printable ASCII or a word of letters
and digits, or a whole number; a line that is not so is skipped alone, and its
message counts non-empty lines only. Curly quotes are a syntax error in both. They
are kept apart here as `meant`, so that a page copied from the web can be judged both
as it stands and as it was meant. Pure: the caller reads the files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from standfast.tune.model import Finding, Setting, Severity

if TYPE_CHECKING:
    from standfast.tune.release import Release

SOURCE = "support.4th of 10.4R and 12.1R; config.lua of 13c and later"

_FORTH = re.compile(
    r"""[ \t]*([A-Za-z][A-Za-z0-9._-]*)[ \t]*=[ \t]*
    (?:"((?:[^"\\]|\\.)*)"|([A-Za-z0-9-][A-Za-z0-9._-]*))[ \t]*(?:\#.*)?""",
    re.VERBOSE,
)
_LUA = re.compile(
    r"""\s*([!-~]+?)\s*=\s*
    (?:"([\s!\#-~]*)"|([A-Za-z0-9]+)|(-?[0-9]+))\s*(?:\#.*)?""",
    re.VERBOSE | re.ASCII,
)
_CURLY = str.maketrans(dict.fromkeys("\u201c\u201d\u201e\u201f\u2033", '"'))
_CURLY_ONE = str.maketrans(dict.fromkeys("\u2018\u2019", "'"))


class Loader(Enum):
    """Which program reads loader.conf."""

    FORTH = "Forth"
    LUA = "Lua"


def loader_of(release: Release | None) -> Loader:
    """Return the default loader of a release; Forth when it is not known."""
    return Loader.LUA if release and release.major >= 12 else Loader.FORTH  # noqa: PLR2004


@dataclass(frozen=True)
class Parsed:
    """What came of one file.

    Attributes:
        settings: what the loader sets, in order.
        meant: the same with curly quotes read as straight ones, and no line lost.
        notes: what to say about its lines.
    """

    settings: tuple[Setting, ...]
    meant: tuple[Setting, ...]
    notes: tuple[Finding, ...]


def parse(text: str, *, file: str, loader: Loader) -> Parsed:
    """Return what a loader makes of the text of one file."""
    settings: list[Setting] = []
    meant: list[Setting] = []
    notes: list[Finding] = []
    stopped = 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip(" \t").startswith("#"):
            continue
        taken = None if stopped else _read(line, loader)
        wished = taken or _read(_straight(line), loader)
        place = f"{file}:{number}"
        if taken:
            settings.append(Setting(*taken, file, number))
        elif stopped:
            notes.append(_skipped(place, stopped))
        else:
            notes.append(_malformed(line, place, loader))
            stopped = number if loader is Loader.FORTH else 0
        if wished:
            meant.append(Setting(*wished, file, number))
    notes.extend(_duplicates(meant))
    return Parsed(tuple(settings), tuple(meant), tuple(notes))


def _straight(line: str) -> str:
    return line.translate(_CURLY).translate(_CURLY_ONE)


def _read(line: str, loader: Loader) -> tuple[str, str] | None:
    match = (_FORTH if loader is Loader.FORTH else _LUA).fullmatch(line)
    if match is None:
        return None
    name, *values = match.groups()
    value = next(value for value in values if value is not None)
    if loader is Loader.FORTH:
        value = re.sub(r"\\(.)", r"\1", value)
    return name, value


def _malformed(line: str, place: str, loader: Loader) -> Finding:
    if line != _straight(line):
        what = "curly quotes: the loader takes the line for a syntax error"
    elif "=" not in line:
        what = "no `=`: the loader takes the line for a syntax error"
    elif re.search(r'=\s*"[^"]*$', line):
        what = "the closing quote is missing"
    else:
        what = "the loader cannot read this line"
    if loader is Loader.FORTH:
        what += ", skips the rest of the file and boots on with the defaults"
    else:
        what += " (`Malformed line`) and goes on with the next"
    return Finding(Severity.WARNING, what, place, SOURCE)


def _skipped(place: str, since: int) -> Finding:
    what = f"never read: the loader stopped at the bad line {since}"
    return Finding(Severity.IGNORED, what, place, SOURCE)


def _duplicates(settings: list[Setting]) -> list[Finding]:
    seen: dict[str, Setting] = {}
    notes = []
    for setting in settings:
        if (first := seen.get(setting.name)) is not None:
            what = f"{setting.name} is set again in line {setting.line}, which wins"
            notes.append(Finding(Severity.WARNING, what, first.place, SOURCE))
        seen[setting.name] = setting
    return notes


def render(settings: tuple[Setting, ...]) -> str:
    """Return loader.conf lines that both loaders read back as these settings."""
    return "".join(f'{setting.name}="{setting.text}"\n' for setting in settings)
