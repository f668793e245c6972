"""Packed name-value lists, as they lie in the payload of a BEGIN record.

Both encodings are read, XDR and native, and native in either byte order: libzfs
writes XDR, kernels wrote native lists up to May 2026 (module/nvpair/nvpair.c of
OpenZFS). The input may be hostile: depth and the number of values are limited, no
size is believed before it is compared with what is there, and every fault is a
StreamError. Nothing is written, and nothing is said about what a list means.
"""

from __future__ import annotations

from struct import Struct, calcsize, unpack_from
from typing import TYPE_CHECKING, Final

from standfast.errors import StreamError

if TYPE_CHECKING:
    from collections.abc import Callable

    Scalar = int | float | str | bytes | bool
    Value = Scalar | list["Value"] | dict[str, "Value"]
    NvList = dict[str, Value]

# A replicated pool's list nests six deep; C libraries do not limit this at all.
DEEPEST: Final = 32
# Each value costs Python up to a few hundred bytes. A pool with a hundred thousand
# snapshots and their properties needs about a million.
MOST_VALUES: Final = 4_000_000

_XDR, _NATIVE = 1, 0
_BOOLEAN, _BYTE, _STRING, _BYTE_ARRAY, _STRING_ARRAY = 1, 2, 9, 10, 17
_NVLIST, _NVLIST_ARRAY, _BOOLEAN_VALUE, _BOOLEAN_ARRAY = 19, 20, 21, 24
_I8_ARRAY, _U8_ARRAY = 25, 26

# Type number -> struct code in the native encoding.
_SCALARS = {
    _BYTE: "B",
    3: "h",
    4: "H",
    5: "i",
    6: "I",
    7: "q",
    8: "Q",
    18: "q",
    _BOOLEAN_VALUE: "i",
    22: "b",
    23: "B",
    27: "d",
}
_ARRAYS = {11: "h", 12: "H", 13: "i", 14: "I", 15: "q", 16: "Q", _BOOLEAN_ARRAY: "i"}
_ARRAYS |= {_I8_ARRAY: "b", _U8_ARRAY: "B"}
# XDR has nothing shorter than four bytes; signs and values stay what they were.
_WIDENED = {"b": "i", "B": "I", "h": "i", "H": "I"}
_POINTER, _LIST_STUB = 8, 24


def parse_nvlist(data: bytes | bytearray) -> NvList:
    """Return the list as nested dictionaries; a valueless boolean is True.

    Byte arrays become bytes, other arrays lists. Text that is not UTF-8 keeps its
    bytes by surrogate escapes. Of two pairs of one name the last counts.

    Args:
        data: the packed list, which may be followed by zero bytes only.

    Raises:
        StreamError: the data is no such list, or nests or counts too far.
    """
    head = bytes(data[:4])
    if len(head) < 4:  # noqa: PLR2004 - the header's length
        raise _broken(0, "shorter than its own header")
    reader: _Reader
    if head[0] == _XDR:
        reader = _XdrReader(data, ">")
    elif head[0] == _NATIVE and head[1] in (0, 1):
        reader = _NativeReader(data, "<" if head[1] else ">")
    else:
        raise _broken(0, f"unknown encoding {head[0]}/{head[1]}")
    pairs = reader.read_all()
    if data[reader.at :].strip(b"\0"):
        raise _broken(reader.at, "bytes after the end of the list")
    return pairs


def _broken(at: int, why: str) -> StreamError:
    return StreamError(f"name-value list is corrupt at its byte {at}: {why}")


class _Reader:
    """A place in packed data, and what both encodings share.

    Attributes:
        at: the next byte to read.
    """

    def __init__(self, data: bytes | bytearray, order: str) -> None:
        self.at = 4
        self._data = data
        self._order = order
        self._budget = MOST_VALUES
        self._word = Struct(order + "i")
        self._twin = Struct(order + "ii")
        self._front = Struct(order + "hhii")
        self._version = Struct(order + "iI")

    def read_all(self) -> NvList:
        self._check_version()
        return self._pairs(0)

    def _check_version(self) -> None:
        version, _flags = self._unpack(self._version)
        if version != 0:
            raise _broken(self.at - 8, f"unknown version {version}")

    def _pairs(self, depth: int) -> NvList:
        if depth > DEEPEST:
            raise _broken(self.at, f"nested deeper than {DEEPEST}")
        pairs: NvList = {}
        while (pair := self._pair(depth)) is not None:
            pairs[pair[0]] = pair[1]
        return pairs

    def _pair(self, depth: int) -> tuple[str, Value] | None:
        """Read one pair, or the mark of the list's end."""
        raise NotImplementedError

    def _unpack(self, layout: Struct) -> tuple[int, ...]:
        self._need(layout.size)
        values: tuple[int, ...] = layout.unpack_from(self._data, self.at)
        self.at += layout.size
        return values

    def _need(self, size: int) -> None:
        if size < 0 or self.at + size > len(self._data):
            raise _broken(self.at, f"{size} bytes wanted where the data ends")

    def _take(self, size: int) -> bytes:
        self._need(size)
        taken = bytes(self._data[self.at : self.at + size])
        self.at += size
        return taken

    def _spend(self, values: int) -> None:
        self._budget -= values
        if values < 0 or self._budget < 0:
            raise _broken(self.at, f"more than {MOST_VALUES} values")

    def _scalar(self, code: str, kind: int) -> Value:
        value: Scalar = self._many(code, 1)[0]
        return bool(value) if kind == _BOOLEAN_VALUE else value

    def _array(self, code: str, kind: int, count: int) -> Value:
        values = self._many(code, count)
        if kind == _BOOLEAN_ARRAY:
            return [bool(value) for value in values]
        return list(values)

    def _many(self, code: str, count: int) -> tuple[int, ...]:
        size = count * calcsize("=" + code)
        self._need(size)
        self._spend(count)
        values = unpack_from(f"{self._order}{count}{code}", self._data, self.at)
        self.at += size
        return values


class _XdrReader(_Reader):
    """XDR: big-endian, everything in multiples of four bytes."""

    def _pair(self, depth: int) -> tuple[str, Value] | None:
        start = self.at
        size, decoded = self._unpack(self._twin)
        if size == 0 and decoded == 0:
            return None
        name = self._string()
        kind, count = self._unpack(self._twin)
        self._spend(1)
        value = self._value(kind, count, depth)
        if self.at - start != size:
            raise _broken(start, f"a pair of {size} bytes takes {self.at - start}")
        return name, value

    def _value(self, kind: int, count: int, depth: int) -> Value:
        if kind in _SCALARS:
            code = _SCALARS[kind]
            return self._scalar(_WIDENED.get(code, code), kind)
        if kind in _ARRAYS:
            if self._unpack(self._word)[0] != count:
                raise _broken(self.at - 4, "an array's two counts differ")
            code = _ARRAYS[kind]
            return self._array(_WIDENED.get(code, code), kind, count)
        return self._composed(kind, count, depth)

    def _composed(self, kind: int, count: int, depth: int) -> Value:
        self._spend(0 if kind == _BYTE_ARRAY else count)
        match kind:
            case 1:
                return True
            case 9:
                return self._string()
            case 10:
                return self._padded(count)
            case 17:
                return [self._string() for _ in range(count)]
            case 19:
                return self._nested(depth)
            case 20:
                return [self._nested(depth) for _ in range(count)]
        raise _broken(self.at, f"unknown type {kind}")

    def _nested(self, depth: int) -> NvList:
        self._check_version()
        return self._pairs(depth + 1)

    def _string(self) -> str:
        (length,) = self._unpack(self._word)
        return self._padded(length).decode("utf-8", "surrogateescape")

    def _padded(self, length: int) -> bytes:
        text = self._take(length)
        self._take(-length % 4)
        return text


class _NativeReader(_Reader):
    """Native: the C structures of the sender, nested lists after their pair."""

    def _pair(self, depth: int) -> tuple[str, Value] | None:
        start = self.at
        (size,) = self._unpack(self._word)
        if size == 0:
            return None
        name_size, _reserved, count, kind = self._unpack(self._front)
        end = start + size
        if size < self.at - start + name_size or end > len(self._data):
            raise _broken(start, f"a pair of {size} bytes cannot be")
        name = self._take(name_size)
        if name[-1:] != b"\0":
            raise _broken(start, "a name without its end")
        self._spend(1)
        self.at += -(self.at - start) % 8
        value = self._value(kind, count, end, depth)
        return name[:-1].decode("utf-8", "surrogateescape"), value

    def _value(self, kind: int, count: int, end: int, depth: int) -> Value:
        if kind in (_NVLIST, _NVLIST_ARRAY):
            return self._lists(kind, count, end, depth)
        read = self._flat(kind)
        value = read(kind, count, end)
        if self.at > end:
            raise _broken(self.at, "a value reaches over the end of its pair")
        self.at = end
        return value

    def _flat(self, kind: int) -> Callable[[int, int, int], Value]:
        if kind in _SCALARS or kind in _ARRAYS:
            return self._numbers
        found: dict[int, Callable[[int, int, int], Value]] = {
            _BOOLEAN: lambda _kind, _count, _end: True,
            _STRING: lambda _kind, _count, end: self._string(end),
            _BYTE_ARRAY: lambda _kind, count, _end: self._take(count),
            _STRING_ARRAY: self._strings,
        }
        if kind not in found:
            raise _broken(self.at, f"unknown type {kind}")
        return found[kind]

    def _numbers(self, kind: int, count: int, _end: int) -> Value:
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind], kind)
        return self._array(_ARRAYS[kind], kind, count)

    def _strings(self, _kind: int, count: int, end: int) -> Value:
        self._spend(count)
        self._take(count * _POINTER)
        return [self._string(end) for _ in range(count)]

    def _string(self, end: int) -> str:
        zero = self._data.find(b"\0", self.at, end)
        if zero < 0:
            raise _broken(self.at, "a text without its end")
        text = bytes(self._data[self.at : zero])
        self.at = zero + 1
        return text.decode("utf-8", "surrogateescape")

    def _lists(self, kind: int, count: int, end: int, depth: int) -> Value:
        """Skip the stubs, of which only the room is kept; read what follows."""
        stubs = _LIST_STUB if kind == _NVLIST else count * (_POINTER + _LIST_STUB)
        self._spend(count)
        self._take(stubs)
        if self.at > end:
            raise _broken(self.at, "a nested list reaches over its pair")
        self.at = end
        if kind == _NVLIST:
            return self._pairs(depth + 1)
        return [self._pairs(depth + 1) for _ in range(count)]
