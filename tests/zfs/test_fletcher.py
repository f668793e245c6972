"""Fletcher-4 agrees with its definition, wherever the data is cut or looked at."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from struct import iter_unpack, pack

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from standfast.zfs.fletcher import Fletcher4, fletcher4

Sums = tuple[int, int, int, int]

ROW = 88 * 4
BLOCK = 512 * ROW
SPAN = 16 * BLOCK


def slow_states(data: bytes | bytearray, *, big_endian: bool) -> list[Sums]:
    """Return the state before each word and after the last, by the definition."""
    a = b = c = d = 0
    states = [(0, 0, 0, 0)]
    for (word,) in iter_unpack(">I" if big_endian else "<I", data):
        a = (a + word) % 2**64
        b = (b + a) % 2**64
        c = (c + b) % 2**64
        d = (d + c) % 2**64
        states.append((a, b, c, d))
    return states


def patterned(size: int) -> bytes:
    """Return bytes that differ in every period that matters."""
    return bytes(251 * i // 7 % 256 for i in range(size))


@given(
    words=st.binary(max_size=4096).map(lambda data: data[: len(data) // 4 * 4]),
    big_endian=st.booleans(),
    cuts=st.lists(st.integers(0, 1024), max_size=6),
)
@example(words=b"\xff" * 4096, big_endian=False, cuts=[88, 176, 177])
@example(words=b"\x00" * 4096, big_endian=True, cuts=[0, 1])
def test_any_split_and_every_state_agree_with_the_definition(
    words: bytes,
    big_endian: bool,  # noqa: FBT001 - drawn
    cuts: list[int],
) -> None:
    sums = Fletcher4(big_endian=big_endian)
    edges = [0, *sorted(min(4 * cut, len(words)) for cut in cuts), len(words)]
    seen: list[Sums] = []
    for start, stop in pairwise(edges):
        marks = range(0, stop - start, 4)
        seen += [tuple(row) for row in sums.update(words[start:stop], marks).tolist()]
    expected = slow_states(words, big_endian=big_endian)
    assert [*seen, sums.state] == expected


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("fill", [b"\xff", b"\x80", b"\x7f", None])
def test_over_blocks_and_spans_nothing_is_rounded(
    *, fill: bytes | None, big_endian: bool
) -> None:
    """The heaviest words are where doubles would lose the last digit first."""
    size = SPAN + BLOCK + ROW + 36
    data = patterned(size) if fill is None else fill * size
    expected = slow_states(data, big_endian=big_endian)
    marks = sorted(
        edge + delta
        for edge in (ROW, BLOCK, BLOCK + ROW, SPAN, SPAN + BLOCK)
        for delta in (-4, 0, 4)
    )
    sums = Fletcher4(big_endian=big_endian)
    states = sums.update(data, [0, *marks, size]).tolist()
    assert [tuple(row) for row in states] == [
        expected[mark // 4] for mark in [0, *marks, size]
    ]
    assert sums.state == expected[-1]


def test_data_need_not_be_aligned() -> None:
    data = patterned(4 * BLOCK)
    view = memoryview(b"x" + data)[1:]
    assert fletcher4(view) == fletcher4(data)


def test_nothing_leaves_the_state_alone() -> None:
    sums = Fletcher4()
    sums.update(b"\1\0\0\0")
    assert sums.update(b"", [0]).tolist() == [[1, 1, 1, 1]]
    assert sums.state == (1, 1, 1, 1)
    sums.reset()
    assert sums.state == (0, 0, 0, 0)


def test_part_of_a_word_is_refused() -> None:
    with pytest.raises(ValueError, match="whole 32-bit words"):
        fletcher4(b"12345")


@settings(deadline=None)
@given(
    marks=st.sets(st.integers(0, 200), max_size=5).map(
        lambda places: sorted(40 * place for place in places)
    ),
    big_endian=st.booleans(),
    data=st.data(),
)
def test_verify_finds_the_first_record_that_differs(
    marks: list[int],
    big_endian: bool,  # noqa: FBT001 - drawn
    data: st.DataObject,
) -> None:
    """A recorded state that is right passes, zeros pass, all else is found."""
    order = ">4Q" if big_endian else "<4Q"
    content = bytearray(patterned(40 * 202))
    wrong = data.draw(st.sets(st.sampled_from(marks)) if marks else st.just(set()))
    blank = data.draw(st.sets(st.sampled_from(marks)) if marks else st.just(set()))
    for mark in marks:
        state = slow_states(content[:mark], big_endian=big_endian)[-1]
        record = pack(order, *state)
        if mark in wrong:
            record = record[:-9] + bytes([record[-9] ^ 4]) + record[-8:]
        content[mark : mark + 32] = bytes(32) if mark in blank else record
    expected = [index for index, m in enumerate(marks) if m in wrong - blank]
    sums = Fletcher4(big_endian=big_endian)
    found = sums.verify(memoryview(content), marks)
    assert found == (expected[0] if expected else -1)
    assert sums.state == slow_states(content, big_endian=big_endian)[-1]


def test_importing_the_stream_checker_does_not_load_numpy() -> None:
    code = "import sys, standfast.zfs.records; print('numpy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
