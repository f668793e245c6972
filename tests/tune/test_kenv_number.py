"""Numbers as the kernel takes them; the rows of trials are values that booted kernels
printed (vm_kmem_size after each text was given to the loader)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.tune.rules import kenv_number

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("512M", 512 * MIB),
        ("512m", 512 * MIB),
        ("0x20000000", 512 * MIB),
        ("512MB", None),
        ("1.5G", None),
        ("abc", None),
        ("\u201d512M\u201d", None),
        ("2 G", None),
        ("", None),
        ("0512M", 330 * MIB),
        ("4G", 0),
        ("5G", 1024 * MIB),
        ("6G", 2048 * MIB),
        ("-1", (1 << 32) - 1),
    ],
)
def test_texts_read_as_booted_i386_kernels_read_them(
    text: str, value: int | None
) -> None:
    """Each text gives what kernels of Feb 2011 and 9.3 were seen to take it for."""
    assert kenv_number.read(text, bits=32).value == value


@given(st.integers(0, 4095), st.sampled_from("kKmM"))
def test_plain_sizes_lose_nothing(count: int, suffix: str) -> None:
    """Decimal with one suffix reads back as the product, without a note."""
    shift = {"k": 10, "m": 20}[suffix.lower()]
    number = kenv_number.read(f"{count}{suffix}", bits=32)
    assert number.value == (count << shift) % (1 << 32)
    assert (number.note == "") == (count << shift < 1 << 32)


@given(st.text(max_size=12))
def test_what_is_refused_says_why(text: str) -> None:
    """No text is refused in silence: that is the kernel's way, not ours."""
    number = kenv_number.read(text, bits=64)
    assert number.value is not None or number.note


def test_later_kernels_refuse_what_earlier_ones_cut() -> None:
    """From 13 on a value over 32 bits is refused instead of cut."""
    assert kenv_number.read("4G", bits=32, refuses_overflow=True).value is None
