"""Spans painted over one another are what a file would hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from standfast.zfs.extents import IN_STREAM, Extents, Payload

SIZE = 64
STEPS = st.lists(
    st.tuples(st.booleans(), st.integers(0, SIZE - 1), st.integers(0, SIZE)),
    max_size=30,
)


@given(STEPS, st.integers(0, SIZE), st.integers(0, SIZE))
def test_like_a_file(steps: list[tuple[bool, int, int]], first: int, last: int) -> None:
    """Writes and holes in any order give what an array of bytes would."""
    extents = Extents()
    oracle: list[tuple[int, int] | None] = [None] * SIZE
    for number, (writes, start, length) in enumerate(steps):
        end = min(SIZE, start + length)
        if writes:
            payload = Payload(start, IN_STREAM, number, 0, length, 0, 0)
            extents.write(start, end, payload)
        else:
            extents.punch(start, end)
        for place in range(start, end):
            oracle[place] = (number, place - start) if writes else None
    found: list[tuple[int, int] | None] = [None] * SIZE
    before = first
    for span in extents.spans(first, last):
        assert before <= span.start < span.end <= last
        before = span.end
        for place in range(span.start, span.end):
            found[place] = (span.payload.place, place - span.payload.start)
    assert oracle[first:last] == found[first:last]
    assert extents.end == max((i + 1 for i, o in enumerate(oracle) if o), default=0)
