"""Fletcher-4 with running state: the checksum of send streams and of old blocks.

Four sums modulo 2**64 over 32-bit words: ``a += w; b += a; c += b; d += c``. The
words are in the sender's byte order. Any number of intermediate states can be had
on the way, which is what checking each record of a stream needs.

How it is fast: the sums of a row of 88 words, begun from zero, are a product of
the row with a fixed 88 x 4 matrix of binomial coefficients. Below 2**53 that is
exact in doubles whatever the order of additions, so a matrix library may do it;
rows are then joined in integers. numpy is imported at first use, not before.
"""

from __future__ import annotations

from functools import cache
from math import comb
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Words = NDArray[np.uint64]

# Signed 32-bit words times the heaviest column sum to at most 2**31 * comb(91, 4),
# which is below 2**53: every partial sum of a row of 88 is an exact double.
_ROW = 88
# 176 KiB of stream and 352 KiB of doubles: stays in a core's second-level cache.
# 4 * 88 * 512 multiplications are also few enough that OpenBLAS starts no threads.
_BLOCK_ROWS = 512
_BLOCK = _ROW * _BLOCK_ROWS
_SPAN_ROWS = 16 * _BLOCK_ROWS
_SPAN = _ROW * _SPAN_ROWS
_WORD = 4
_RECORDED = 32
_SIGN = 1 << 31


class _Tables(NamedTuple):
    """Constants; the first index of the last three is a number of words, 0 to 88."""

    weights: Floats
    keep: Floats
    bias: Words
    growth: Words


@cache
def _tables() -> _Tables:
    import numpy as np  # noqa: PLC0415 - start-up stays cheap where no stream is read

    counts = range(_ROW + 1)
    weights = [[comb(_ROW - k + j - 1, j) for j in range(4)] for k in range(_ROW)]
    keep = [[k >= _ROW - n for k in range(_ROW)] for n in counts]
    bias = [[_SIGN * comb(n + j, j + 1) for j in range(4)] for n in counts]
    growth = [[comb(n + j - 1, j) if n else 0 for j in range(1, 4)] for n in counts]
    return _Tables(
        np.array(weights, np.float64),
        np.array(keep, np.float64),
        np.array(bias, np.uint64),
        np.array(growth, np.uint64),
    )


class Fletcher4:
    """A running fletcher-4 over whole 32-bit words.

    Args:
        big_endian: the order of the bytes in a word.

    Attributes:
        state: the four sums, each below 2**64.
    """

    def __init__(self, *, big_endian: bool = False) -> None:
        import numpy as np  # noqa: PLC0415 - as above

        self.state: tuple[int, int, int, int] = (0, 0, 0, 0)
        self._np = np
        self._tables = _tables()
        self._order = np.dtype(">u4" if big_endian else "<u4")
        self._wide = np.dtype(">u8" if big_endian else "<u8")
        self._raw = np.zeros(_BLOCK, np.uint32)
        # One row of nothing stands before the block, so that the 88 words before
        # any place in it can be looked at in one way.
        self._doubles = np.zeros(_ROW + _BLOCK, np.float64)
        self._before = np.lib.stride_tricks.sliding_window_view(self._doubles, _ROW)
        self._sums = np.zeros((_SPAN_ROWS, 4), np.float64)
        self._joined = np.zeros((4, _SPAN_ROWS + 1), np.uint64)
        self._step = np.zeros(_SPAN_ROWS, np.uint64)

    def reset(self) -> None:
        """Begin again from zero."""
        self.state = (0, 0, 0, 0)

    def update(
        self,
        data: bytes | bytearray | memoryview,
        marks: Sequence[int] | NDArray[np.int64] = (),
    ) -> Words:
        """Absorb whole words and return the states at the marks.

        Args:
            data: bytes, a multiple of four of them.
            marks: byte offsets into data, ascending, multiples of four; a mark is
                the state after everything before it.

        Returns:
            An array of shape (number of marks, 4).

        Raises:
            ValueError: the data is not whole words.
        """
        np = self._np
        octets = np.frombuffer(data, np.uint8)
        if octets.size % _WORD:
            raise ValueError("fletcher-4 is defined over whole 32-bit words")
        words = octets.view(self._order)
        at = np.asarray(marks, np.int64) // _WORD
        states: Words = np.zeros((at.size, 4), np.uint64)
        first = 0
        for start in range(0, words.size, _SPAN):
            span = words[start : start + _SPAN]
            last = int(at.searchsorted(start + span.size, "right"))
            states[first:last] = self._absorb(span, at[first:last] - start)
            first = last
        states[first:] = self.state
        return states

    def verify(self, data: memoryview, marks: Sequence[int]) -> int:
        """Absorb whole words; at each mark compare the state recorded there.

        Args:
            data: as for update; 32 bytes must follow each mark.
            marks: as for update. Where the four 64-bit words at a mark are zero,
                nothing was recorded, and nothing is compared.

        Returns:
            The index of the first mark whose record differs, or -1.

        Raises:
            ValueError: the data is not whole words.
        """
        np = self._np
        at = np.asarray(marks, np.int64)
        if not at.size:
            self.update(data)
            return -1
        octets = np.frombuffer(data, np.uint8)
        windows = np.lib.stride_tricks.sliding_window_view(octets, _RECORDED)
        recorded = windows[at].view(self._wide)
        noted = recorded.any(axis=1)
        differs = (self.update(data, at[noted]) != recorded[noted]).any(axis=1)
        if not differs.any():
            return -1
        return int(np.flatnonzero(noted)[differs.argmax()])

    def _absorb(self, words: NDArray[np.uint32], at: NDArray[np.int64]) -> Words:
        """Take in up to one span; return the states at word offsets."""
        np = self._np
        places = np.append(at, words.size)
        partial = np.zeros((places.size, 4), np.float64)
        first = 0
        starts = range(0, words.size, _BLOCK)
        cuts = places.searchsorted([start + _BLOCK for start in starts], "right")
        for start, last in zip(starts, cuts.tolist(), strict=True):
            block = words[start : start + _BLOCK]
            self._sum_rows(block, start // _ROW)
            if last > first:
                partial[first:last] = self._sum_ends(places[first:last] - start)
            first = last
        self._join(words.size // _ROW)
        states = self._states_at(places, partial)
        a, b, c, d = states[-1].tolist()
        self.state = (a, b, c, d)
        return states[:-1]

    def _sum_rows(self, block: NDArray[np.uint32], row: int) -> None:
        """Sum each whole row of a block from zero; the words become signed."""
        np = self._np
        size, rows = block.size, block.size // _ROW
        raw, doubles = self._raw[:size], self._doubles[_ROW : _ROW + size]
        # Signed words convert to doubles at twice the speed of unsigned ones.
        np.bitwise_xor(block, np.uint32(_SIGN), out=raw)
        np.copyto(doubles, raw.view(np.int32))
        grid = doubles[: rows * _ROW].reshape(rows, _ROW)
        np.matmul(grid, self._tables.weights, out=self._sums[row : row + rows])

    def _sum_ends(self, places: NDArray[np.int64]) -> Floats:
        """Sum, from zero, the words between the last row's end and each place."""
        words = self._before[places] * self._tables.keep[places % _ROW]
        ends: Floats = words @ self._tables.weights
        return ends

    def _join(self, rows: int) -> None:
        """Make the running state at the start of each row, and after the last."""
        np = self._np
        a, b, c, d = self._joined[:, : rows + 1]
        sums = self._sums[:rows].T.astype(np.int64).view(np.uint64)
        sums += self._tables.bias[_ROW][:, None]
        step = self._step[:rows]
        n1, n2, n3 = self._tables.growth[_ROW]
        for state, line, value in zip((a, b, c, d), sums, self.state, strict=True):
            state[0] = value
            state[1:] = line
        np.cumsum(a, out=a)
        for target, terms in (
            (b, ((n1, a),)),
            (c, ((n1, b), (n2, a))),
            (d, ((n1, c), (n2, b), (n3, a))),
        ):
            for factor, source in terms:
                target[1:] += np.multiply(source[:-1], factor, out=step)
            np.cumsum(target, out=target)

    def _states_at(self, places: NDArray[np.int64], partial: Floats) -> Words:
        """Carry the state at the start of each place's row on to the place."""
        np = self._np
        rest = places % _ROW
        a, b, c, d = self._joined[:, places // _ROW]
        n1, n2, n3 = self._tables.growth[rest].T
        states: Words = partial.astype(np.int64).view(np.uint64)
        states += self._tables.bias[rest]
        states[:, 0] += a
        states[:, 1] += b + n1 * a
        states[:, 2] += c + n1 * b + n2 * a
        states[:, 3] += d + n1 * c + n2 * b + n3 * a
        return states


def fletcher4(
    data: bytes | bytearray | memoryview, *, big_endian: bool = False
) -> tuple[int, int, int, int]:
    """Return the four sums of whole words, begun from zero.

    Raises:
        ValueError: the data is not whole words.
    """
    sums = Fletcher4(big_endian=big_endian)
    sums.update(data)
    return sums.state
