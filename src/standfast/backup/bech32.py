"""Bech32 as age writes its keys: BIP 173, without the limit of 90 characters.

A text is `hrp 1 data checksum`: a prefix for people, the separator `1`, then
5-bit groups, of which the last six are a BCH code over all before them. The
checksum constant is 1 (not Bech32m). Source: BIP 173 and the age specification.
No error ever repeats its input, for that may be a secret key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_VALUE = {char: value for value, char in enumerate(_CHARSET)}
# The generator polynomial of BIP 173, one row a bit that falls out at the top.
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM_LENGTH = 6


def encode(hrp: str, data: bytes) -> str:
    """Return the Bech32 text of data; upper case if the prefix is upper case."""
    low = hrp.lower()
    values = _to_groups(data)
    body = values + _checksum(low, values)
    text = low + "1" + "".join(_CHARSET[value] for value in body)
    return text.upper() if hrp == hrp.upper() else text


def decode(text: str) -> tuple[str, bytes]:
    """Return the prefix, in the case it was written in, and the bytes.

    Raises:
        ValueError: the text is not valid Bech32.
    """
    if text not in {text.lower(), text.upper()}:
        raise ValueError("mixed upper and lower case")
    hrp, separator, tail = text.rpartition("1")
    if not separator or not hrp or len(tail) < _CHECKSUM_LENGTH:
        raise ValueError("no prefix, or too short")
    if not all("!" <= char <= "~" for char in hrp):
        raise ValueError("a prefix of unprintable characters")
    tail = tail.lower()
    if not _VALUE.keys() >= set(tail):
        raise ValueError("a character that Bech32 does not have")
    values = [_VALUE[char] for char in tail]
    if _polymod([*_expand(hrp.lower()), *values]) != 1:
        raise ValueError("wrong checksum: mistyped or cut")
    return hrp, _to_bytes(values[:-_CHECKSUM_LENGTH])


def _polymod(values: Iterable[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, row in enumerate(_GENERATOR):
            if top >> bit & 1:
                check ^= row
    return check


def _expand(hrp: str) -> list[int]:
    return [ord(char) >> 5 for char in hrp] + [0] + [ord(char) & 31 for char in hrp]


def _checksum(hrp: str, values: list[int]) -> list[int]:
    check = _polymod([*_expand(hrp), *values, 0, 0, 0, 0, 0, 0]) ^ 1
    return [check >> 5 * (5 - place) & 31 for place in range(_CHECKSUM_LENGTH)]


def _to_groups(data: bytes) -> list[int]:
    groups = -(-len(data) * 8 // 5)
    number = int.from_bytes(data, "big") << groups * 5 - len(data) * 8
    return [number >> 5 * (groups - 1 - place) & 31 for place in range(groups)]


def _to_bytes(values: list[int]) -> bytes:
    number = 0
    for value in values:
        number = number << 5 | value
    # What is left over fills up the last group: fewer than 5 bits, all zero.
    length, spare = divmod(len(values) * 5, 8)
    if spare >= 5 or number & (1 << spare) - 1:  # noqa: PLR2004 - a whole group
        raise ValueError("wrong padding")
    return (number >> spare).to_bytes(length, "big")
