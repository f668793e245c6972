"""How the kernel reads a number from its environment (getenv_quad).

strtoq with base 0: blanks, a sign, then 0x for hexadecimal, a leading 0 for octal,
otherwise decimal; then at most ONE letter of k K m M g G t T, which must be the last
character. Anything else - `512MB`, `1.5G`, `2 G`, curly quotes, no digits at all -
is refused without a message and the default stays. `0512M` is octal: 330 MiB. A
32-bit kernel cuts the result to 32 bits, so `4G` becomes 0 and `5G` becomes 1 GiB;
from 13 on the cut is refused instead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from standfast.tune.rules import Rule

RULE = Rule(
    "numbers in the kernel environment",
    "sys/kern/kern_environment.c getenv_quad of 8.0R to 13c; values printed by"
    " booted kernels of Feb 2011 and 9.3",
    "FreeBSD 7.0 to 15",
)

_NUMBER = re.compile(
    r"[ \t]*([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))([kKmMgGtT]?)",
    re.ASCII,
)
_SHIFT = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_WORD = 1 << 32


@dataclass(frozen=True)
class Number:
    """What the kernel made of a text.

    Attributes:
        value: bytes, or None when it was refused and the default stays.
        note: what deserves a word, or nothing.
    """

    value: int | None
    note: str = ""


def read(text: str, *, bits: int, refuses_overflow: bool = False) -> Number:
    """Return what a kernel of ``bits`` bits takes the text for."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return Number(None, _refusal(text))
    sign, hexadecimal, octal, decimal, suffix = match.groups()
    if hexadecimal:
        count = int(hexadecimal, 16)
    elif octal:
        count = int(octal, 8)
    else:
        count = int(decimal)
    value = (count << _SHIFT[suffix.lower()]) * (-1 if sign == "-" else 1)
    note = ""
    if octal and len(octal) > 1:
        note = f"a leading 0 makes `{text}` octal: {value} bytes"
    limit = 1 << bits
    if 0 <= value < limit:
        return Number(value, note)
    if refuses_overflow:
        return Number(None, f"`{text}` does not fit in {bits} bits and is refused")
    return Number(value % limit, _cut(text, value, bits))


def _cut(text: str, value: int, bits: int) -> str:
    kept = value % (1 << bits)
    if value < 0:
        return f"`{text}` is taken as {kept} bytes"
    return f"`{text}` is cut to {bits} bits: {kept} bytes are left"


def _refusal(text: str) -> str:
    if re.fullmatch(r"\s*\d+\s*[kKmMgGtT][iI]?[bB]\s*", text):
        return f"`{text}` is refused: one letter after the number, not two"
    if re.fullmatch(r"\s*\d+\.\d+\s*[kKmMgGtT]?\s*", text):
        return f"`{text}` is refused: the kernel reads whole numbers only"
    if not text.isascii():
        return f"`{text}` is refused: it has characters that are not ASCII"
    return f"`{text}` is refused: it is no number that the kernel reads"
