"""Packed name-value lists: both encodings are read back, and nothing else passes."""

from __future__ import annotations

import bz2
import struct
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from standfast.errors import StreamError
from standfast.zfs import nvlist
from standfast.zfs.nvlist import parse_nvlist

STREAMS = Path(__file__).parents[3] / "shared" / "data" / "streams"

Tree = dict[str, object]

U64 = st.integers(0, 2**64 - 1)
TEXT = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9
)
VALUES = st.recursive(
    st.one_of(
        U64,
        TEXT,
        st.just(value=True),
        st.binary(max_size=9),
        st.lists(U64, min_size=1, max_size=4),
        st.lists(TEXT, min_size=1, max_size=4),
    ),
    lambda inner: st.one_of(
        st.dictionaries(TEXT, inner, max_size=4),
        st.lists(st.dictionaries(TEXT, inner, max_size=3), min_size=1, max_size=3),
    ),
    max_leaves=12,
)
TREES = st.dictionaries(TEXT, VALUES, max_size=5)


def kind_of(value: object) -> int:
    """Return the type number under which the encoders below write a value."""
    if isinstance(value, list):
        return {int: 16, str: 17, dict: 20}[type(value[0])]
    return {bool: 1, int: 8, str: 9, bytes: 10, dict: 19}[type(value)]


def count_of(value: object) -> int:
    if value is True:
        return 0
    return len(value) if isinstance(value, (list, bytes)) else 1


def xdr_text(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">I", len(data)) + data + bytes(-len(data) % 4)


def xdr_value(value: object) -> bytes:  # noqa: PLR0911 - a table
    match value:
        case bool():
            return b""
        case int():
            return struct.pack(">Q", value)
        case str():
            return xdr_text(value)
        case bytes():
            return value + bytes(-len(value) % 4)
        case dict():
            return xdr_list(value)
        case [int(), *_]:
            return struct.pack(f">I{len(value)}Q", len(value), *value)
        case [str(), *_]:
            return b"".join(xdr_text(str(text)) for text in value)
        case list():
            return b"".join(xdr_list(tree) for tree in value)
    raise TypeError(value)


def xdr_list(tree: Tree) -> bytes:
    out = struct.pack(">iI", 0, 1)
    for name, value in tree.items():
        body = xdr_text(name) + struct.pack(">ii", kind_of(value), count_of(value))
        body += xdr_value(value)
        out += struct.pack(">ii", len(body) + 8, 99) + body
    return out + bytes(8)


def xdr(tree: Tree) -> bytes:
    return b"\1\1\0\0" + xdr_list(tree)


def native_value(value: object, order: str) -> tuple[bytes, bytes]:  # noqa: PLR0911 - a table
    """Return what lies in the pair, and what follows it."""
    match value:
        case bool():
            return b"", b""
        case int():
            return struct.pack(order + "Q", value), b""
        case str():
            return value.encode() + b"\0", b""
        case bytes():
            return value, b""
        case dict():
            return bytes(24), native_pairs(value, order)
        case [int(), *_]:
            return struct.pack(f"{order}{len(value)}Q", *value), b""
        case [str(), *_]:
            texts = b"".join(str(text).encode() + b"\0" for text in value)
            return bytes(8 * len(value)) + texts, b""
        case list():
            after = b"".join(native_pairs(one, order) for one in value)
            return bytes(32 * len(value)), after
    raise TypeError(value)


def native_pairs(tree: Tree, order: str) -> bytes:
    out = b""
    for key, value in tree.items():
        name = key.encode() + b"\0"
        name += bytes(-len(name) % 8)
        inside, after = native_value(value, order)
        inside += bytes(-len(inside) % 8)
        out += struct.pack(
            order + "ihhii",
            16 + len(name) + len(inside),
            len(key.encode()) + 1,
            0,
            count_of(value),
            kind_of(value),
        )
        out += name + inside + after
    return out + bytes(4)


def native(tree: Tree, order: str) -> bytes:
    head = b"\0\1\0\0" if order == "<" else b"\0\0\0\0"
    return head + struct.pack(order + "iI", 0, 1) + native_pairs(tree, order)


def every_encoding(tree: Tree) -> list[bytes]:
    return [xdr(tree), native(tree, "<"), native(tree, ">")]


@given(tree=TREES)
def test_what_was_packed_comes_back(tree: Tree) -> None:
    for packed in every_encoding(tree):
        assert parse_nvlist(packed) == tree
        assert parse_nvlist(bytearray(packed) + bytes(7)) == tree


@given(tree=TREES, data=st.data())
def test_a_cut_list_is_refused(tree: Tree, data: st.DataObject) -> None:
    for packed in every_encoding(tree):
        cut = data.draw(st.integers(0, len(packed) - 1))
        with pytest.raises(StreamError):
            parse_nvlist(packed[:cut])


@given(garbage=st.binary(max_size=200), head=st.sampled_from([b"\0\1", b"\0\0", b"\1"]))
@example(garbage=b"", head=b"")
def test_random_bytes_raise_stream_error_or_parse(garbage: bytes, head: bytes) -> None:
    lead = head + bytes(-len(head) % 4) + bytes(8) if head else b""
    for data in (garbage, lead + garbage):
        parses_or_is_refused(data)


@given(tree=TREES, data=st.data())
def test_damaged_lists_raise_stream_error_or_parse(
    tree: Tree, data: st.DataObject
) -> None:
    for packed in every_encoding(tree):
        hurt = bytearray(packed)
        for _ in range(data.draw(st.integers(1, 3))):
            place = data.draw(st.integers(0, len(hurt) - 1))
            hurt[place] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
        parses_or_is_refused(bytes(hurt))


def parses_or_is_refused(data: bytes) -> None:
    try:
        parsed = parse_nvlist(data)
    except StreamError:
        return
    assert isinstance(parsed, dict)


@pytest.mark.parametrize("order", ["<", ">"])
def test_numbers_keep_their_width_and_sign_in_native_lists(order: str) -> None:
    pairs = [
        ("byte", 2, 1, b"\xfe", 254),
        ("i16", 3, 1, struct.pack(order + "h", -2), -2),
        ("u16", 4, 1, struct.pack(order + "H", 65534), 65534),
        ("i32", 5, 1, struct.pack(order + "i", -3), -3),
        ("u32", 6, 1, struct.pack(order + "I", 2**32 - 1), 2**32 - 1),
        ("i64", 7, 1, struct.pack(order + "q", -4), -4),
        ("time", 18, 1, struct.pack(order + "q", 5), 5),
        ("yes", 21, 1, struct.pack(order + "i", 1), True),
        ("i8", 22, 1, b"\xff", -1),
        ("u8", 23, 1, b"\xff", 255),
        ("real", 27, 1, struct.pack(order + "d", 0.5), 0.5),
        ("flags", 24, 2, struct.pack(order + "2i", 0, 1), [False, True]),
        ("i8s", 25, 2, b"\xff\x01", [-1, 1]),
        ("u8s", 26, 2, b"\xff\x01", [255, 1]),
        ("i16s", 11, 2, struct.pack(order + "2h", -1, 1), [-1, 1]),
        ("u32s", 14, 2, struct.pack(order + "2I", 7, 8), [7, 8]),
    ]
    packed = native({}, order)[:-4]
    for name, kind, count, value, _expected in pairs:
        text = name.encode() + b"\0"
        text += bytes(-len(text) % 8)
        room = bytes(-len(value) % 8)
        size = 16 + len(text) + len(value + room)
        packed += struct.pack(order + "ihhii", size, len(name) + 1, 0, count, kind)
        packed += text + value + room
    assert parse_nvlist(packed + bytes(4)) == {
        name: expected for name, _kind, _count, _value, expected in pairs
    }


def test_numbers_keep_their_sign_in_xdr_lists() -> None:
    pairs = [
        ("byte", 2, 1, struct.pack(">I", 254), 254),
        ("i16", 3, 1, struct.pack(">i", -2), -2),
        ("yes", 21, 1, struct.pack(">i", 1), True),
        ("i8", 22, 1, struct.pack(">i", -1), -1),
        ("real", 27, 1, struct.pack(">d", 0.5), 0.5),
        ("flags", 24, 2, struct.pack(">I2i", 2, 0, 1), [False, True]),
        ("u8s", 26, 2, struct.pack(">I2I", 2, 255, 1), [255, 1]),
        ("i64s", 15, 1, struct.pack(">Iq", 1, -9), [-9]),
    ]
    packed = xdr({})[:-8]
    for name, kind, count, value, _expected in pairs:
        body = xdr_text(name) + struct.pack(">ii", kind, count) + value
        packed += struct.pack(">ii", len(body) + 8, 0) + body
    assert parse_nvlist(packed + bytes(8)) == {
        name: expected for name, _kind, _count, _value, expected in pairs
    }


@pytest.mark.parametrize("levels", [nvlist.DEEPEST + 1, 5000])
def test_deep_nesting_is_refused_before_python_gives_up(levels: int) -> None:
    inner_xdr, inner_native = xdr_list({}), native_pairs({}, "<")
    for _ in range(levels):
        body = xdr_text("x") + struct.pack(">ii", 19, 1) + inner_xdr
        inner_xdr = struct.pack(">iIii", 0, 1, len(body) + 8, 0) + body + bytes(8)
        pair = struct.pack("<ihhii", 48, 2, 0, 1, 19) + b"x\0" + bytes(6 + 24)
        inner_native = pair + inner_native + bytes(4)
    for packed in (
        b"\1\1\0\0" + inner_xdr,
        b"\0\1\0\0" + struct.pack("<iI", 0, 1) + inner_native,
    ):
        with pytest.raises(StreamError, match="nested deeper"):
            parse_nvlist(packed)


@pytest.mark.parametrize("kind", [10, 11, 16, 17, 20, 24, 26])
@pytest.mark.parametrize("count", [2**31 - 1, -1, 5_000_000])
def test_a_count_is_not_believed_before_the_data_is_there(
    kind: int, count: int
) -> None:
    body = xdr_text("x") + struct.pack(">iiI", kind, count, count & 0xFFFFFFFF)
    wide = xdr({})[:-8] + struct.pack(">ii", len(body) + 8, 0) + body + bytes(8)
    pair = struct.pack("<ihhii", 24, 2, 0, count, kind) + b"x\0" + bytes(6)
    for packed in (wide, native({}, "<")[:-4] + pair + bytes(4)):
        with pytest.raises(StreamError):
            parse_nvlist(packed)


def test_the_number_of_values_is_limited() -> None:
    """Four bytes make a nested list, so a short input could fill the memory."""
    count = nvlist.MOST_VALUES + 1
    pair = struct.pack("<ihhii", 24 + 32 * count, 2, 0, count, 20) + b"x\0" + bytes(6)
    packed = native({}, "<")[:-4] + pair + bytes(32 * count + 4 * count + 4)
    with pytest.raises(StreamError, match="more than"):
        parse_nvlist(packed)


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        (b"", "shorter than its own header"),
        (b"\2\1\0\0" + bytes(20), "unknown encoding"),
        (b"\0\2\0\0" + bytes(20), "unknown encoding"),
        (b"\1\1\0\0" + struct.pack(">iI", 1, 1) + bytes(8), "unknown version"),
        (xdr({}) + b"\0\0\0\1", "bytes after the end"),
        (native({"a": 1}, "<")[:16] + b"\0\0" + bytes(40), "without its end"),
    ],
)
def test_the_reason_is_said(packed: bytes, why: str) -> None:
    with pytest.raises(StreamError, match=why):
        parse_nvlist(packed)


@settings(max_examples=20)
@given(kind=st.integers(-(2**31), 2**31 - 1).filter(lambda kind: not 0 < kind < 28))
def test_unknown_types_are_refused(kind: int) -> None:
    body = xdr_text("x") + struct.pack(">ii", kind, 1)
    wide = xdr({})[:-8] + struct.pack(">ii", len(body) + 8, 0) + body + bytes(8)
    pair = struct.pack("<ihhii", 24, 2, 0, 1, kind) + b"x\0" + bytes(6)
    for packed in (wide, native({}, "<")[:-4] + pair + bytes(4)):
        with pytest.raises(StreamError, match="unknown type"):
            parse_nvlist(packed)


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ("big-endian-all-drr-types-base-NATIVE", [9453191142355108458]),
        ("big-endian-all-drr-types-base-XDR", [1575939235858921904]),
    ],
)
def test_lists_made_by_kernels_are_read(sample: str, expected: list[int]) -> None:
    path = STREAMS / "openzfs" / f"{sample}.zsend.bz2"
    if not path.exists():
        pytest.skip("no sample streams beside the checkout")
    stream = bz2.decompress(path.read_bytes())
    (length,) = struct.unpack_from(">I", stream, 4)
    parsed = parse_nvlist(stream[312 : 312 + length])
    assert parsed == {"redact_snaps": expected}
