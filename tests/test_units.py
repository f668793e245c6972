"""Sizes, rates and durations read and print as people write them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.errors import UsageError
from standfast.units import (
    age_text,
    duration_text,
    parse_duration,
    parse_rate,
    parse_size,
    size_text,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("512", 512),
        ("64k", 65_536),
        ("64KiB", 65_536),
        ("1.5G", 1_610_612_736),
        (" 32M ", 33_554_432),
        ("2T", 2 << 40),
        ("7 b", 7),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    """Suffixes are powers of 1024."""
    assert expected == parse_size(text)


@pytest.mark.parametrize("text", ["", "k", "-1", "1x", "1..5", "1,5M", "1e3", "٣k x"])
def test_no_sizes(text: str) -> None:
    """Anything else is a mistake, with a hint."""
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "expected"), [("5M", 5 << 20), ("5M/s", 5 << 20), ("1", 1)]
)
def test_rates(text: str, expected: int) -> None:
    """A rate is a size, with or without its /s."""
    assert expected == parse_rate(text)


@pytest.mark.parametrize("text", ["0", "0M/s", "0.4", "fast", "5M/m"])
def test_no_rates(text: str) -> None:
    """A rate of nothing would never end."""
    with pytest.raises(UsageError):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30", 30), ("250ms", 0.25), ("10m", 600), ("2h", 7200), ("7d", 604_800)],
)
def test_durations(text: str, expected: float) -> None:
    """Seconds by default."""
    assert expected == parse_duration(text)


@pytest.mark.parametrize("text", ["", "-1s", "1w", "m", "1h30m"])
def test_no_durations(text: str) -> None:
    """Anything else is a mistake."""
    with pytest.raises(UsageError):
        parse_duration(text)


@given(st.integers(0, 1 << 50))
def test_a_printed_size_reads_back(count: int) -> None:
    """What is printed is what was meant, to its last digit shown."""
    text = size_text(count)
    assert re.fullmatch(r"\d+ B|\d+\.\d{1,2} [KMGT]iB", text)
    assert abs(parse_size(text) - count) <= count * 0.06 + 1


@given(st.floats(0, 1e6))
def test_a_printed_duration(seconds: float) -> None:
    """Minutes and seconds stay below sixty."""
    text = duration_text(seconds)
    if ":" in text:
        parts = [int(part) for part in text.split(":")]
        assert all(part < 60 for part in parts[1:])
        total = 0
        for part in parts:
            total = total * 60 + part
        assert abs(total - seconds) <= 0.5
    else:
        assert abs(float(text.removesuffix(" s")) - seconds) <= 0.051


def test_ages_are_rough() -> None:
    ages = {0: "0 s", 59: "59 s", 60: "1 min", 7199: "119 min", 7200: "2 h"}
    for seconds, text in {**ages, 47 * 3600: "47 h", 172_800: "2 d", -5: "0 s"}.items():
        assert text == age_text(seconds)
