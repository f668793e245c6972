"""Sizes, rates and durations: what people write, and what we print."""

from __future__ import annotations

import re

from standfast.errors import UsageError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)(?:i?[bB])?")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SECONDS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(text: str) -> int:
    """Return bytes for ``512``, ``64k``, ``1.5G``, ``32MiB``; powers of 1024.

    Raises:
        UsageError: the text is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"not a size: {text}", hint="write it like 512k, 32M or 1.5G")
    number, suffix = match.groups()
    return int(float(number) * 1024 ** _POWER[suffix.lower()])


def parse_rate(text: str) -> int:
    """Return bytes a second for ``5M`` or ``5M/s``.

    Raises:
        UsageError: the text is no rate, or it is zero.
    """
    rate = parse_size(text.strip().removesuffix("/s"))
    if rate <= 0:
        raise UsageError(f"not a rate: {text}", hint="write it like 500k or 5M")
    return rate


def parse_duration(text: str) -> float:
    """Return seconds for ``30``, ``250ms``, ``10m``, ``2h``, ``7d``.

    Raises:
        UsageError: the text is no duration.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"not a duration: {text}", hint="write it like 30s or 10m")
    return float(match.group(1)) * _SECONDS[match.group(2)]


def size_text(count: float) -> str:
    """Return ``512 B``, ``1.5 MiB``, ``12.0 GiB``."""
    if count < KIB:
        return f"{int(count)} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:  # noqa: PLR2004
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.2f} TiB"


def duration_text(seconds: float) -> str:
    """Return ``0.4 s``, ``0:42``, ``12:05`` or ``3:07:12``."""
    if seconds < 10:  # noqa: PLR2004
        return f"{max(0.0, seconds):.1f} s"
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    if hours:
        return f"{hours}:{minutes:02}:{secs:02}"
    return f"{minutes}:{secs:02}"


def age_text(seconds: float) -> str:
    """Return ``42 s``, ``12 min``, ``5 h`` or ``3 d``: how long ago, roughly."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        # A day and a half is told in hours.
        if seconds >= unit * (2 if name != "min" else 1):
            return f"{int(seconds // unit)} {name}"
    return f"{max(0, int(seconds))} s"
