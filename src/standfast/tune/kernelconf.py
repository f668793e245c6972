"""Kernel configuration files: the options that matter to memory, and includes.

Reads what config(8) reads of `options NAME[=VALUE]`, `nooptions`, `include FILE`,
`machine`, `cpu` and `ident`, with `#` comments and quotes. Pure: the caller hands
over a function that reads the files; a file that it cannot read is a note, not an
error, since GENERIC is rarely at hand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.tune.model import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = "config(5); sys/i386/conf/NOTES of 8.0R"

_LINE = re.compile(r"\s*(\w+)(?:\s+(.*))?")
_DEEPEST = 8


@dataclass(frozen=True)
class KernelConfig:
    """Options by name ("" for a bare one) and notes, in reading order."""

    options: tuple[tuple[str, str], ...]
    notes: tuple[Finding, ...]


def parse(
    text: str, *, file: str, include: Callable[[str], str | None]
) -> KernelConfig:
    """Return the options of a configuration and all it includes.

    Args:
        text: the file.
        file: its name, for places.
        include: returns the text of an included file, or None.
    """
    options: dict[str, str] = {}
    notes: list[Finding] = []
    _read(text, file, include, options, notes, depth=0)
    notes.extend(_check(options, file))
    return KernelConfig(tuple(options.items()), tuple(notes))


def _read(
    text: str,
    file: str,
    include: Callable[[str], str | None],
    options: dict[str, str],
    notes: list[Finding],
    *,
    depth: int,
) -> None:
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.fullmatch(line.split("#", 1)[0].rstrip())
        if match is None:
            continue
        word, rest = match.group(1), (match.group(2) or "").strip()
        place = f"{file}:{number}"
        if word in {"option", "options"}:
            _options(rest, place, options, notes)
        elif word in {"nooption", "nooptions"}:
            for name in rest.split(","):
                options.pop(name.strip(), None)
        elif word == "include":
            name = rest.strip("\"'")
            inner = include(name) if depth < _DEEPEST else None
            if inner is None:
                what = f"{name} is not at hand; its options are taken as the defaults"
                notes.append(Finding(Severity.NOTE, what, place, SOURCE))
            else:
                _read(inner, name, include, options, notes, depth=depth + 1)


def _options(
    rest: str, place: str, options: dict[str, str], notes: list[Finding]
) -> None:
    for item in rest.split(","):
        name, _, value = item.partition("=")
        name, value = name.strip(), value.strip().strip("\"'")
        if not name:
            continue
        if name in options and options[name] != value:
            what = f"options {name} again: {options[name]} before, now {value}"
            notes.append(Finding(Severity.WARNING, what, place, SOURCE))
        options[name] = value


def _check(options: dict[str, str], file: str) -> list[Finding]:
    text = options.get("KVA_PAGES")
    if text is None:
        return []
    pages = integer(text)
    multiple = 8 if "PAE" in options else 4
    if pages is None:
        what = f"KVA_PAGES={text} is no number"
        return [Finding(Severity.WARNING, what, file, SOURCE)]
    if pages % multiple:
        what = f"KVA_PAGES={pages} is not a multiple of {multiple}: it will not build"
        return [Finding(Severity.FATAL, what, file, SOURCE)]
    return []


def integer(text: str) -> int | None:
    """Return a C integer constant's value, or None."""
    try:
        return int(text, 0)
    except ValueError:
        return None


def size_option(text: str) -> int | None:
    """Return bytes for `(512UL*1024*1024)`, `1024*1024` or `512M`, or None."""
    cleaned = re.sub(r"(?<=\d)[uUlL]+", "", text.strip("() "))
    product = 1
    for factor in cleaned.split("*"):
        value = integer(factor.strip("() "))
        if value is None:
            return None
        product *= value
    return product
