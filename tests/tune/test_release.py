"""Release names as machines and people write them."""

from __future__ import annotations

import pytest

from standfast.tune.release import parse_release


@pytest.mark.parametrize(
    ("text", "numbers", "branch"),
    [
        ("8.2-RELEASE-p3", (8, 2, 0), "release"),
        ("7.0-BETA2", (7, 0, 0), "beta"),
        ("13-CURRENT", (13, -1, 0), "current"),
        ("9.x", (9, 0, 0), "x"),
        ("10.x/11.x", (10, 0, 0), "x"),
        ("0.6.4.1", (0, 6, 4), ""),
        ("2.2.0-rc1", (2, 2, 0), "rc"),
        ("zfs-2.1.5-1ubuntu6", (2, 1, 5), ""),
        ("FreeBSD 12.1-STABLE r123", (12, 1, 0), "stable"),
    ],
)
def test_names_give_numbers_and_branch(
    text: str, numbers: tuple[int, int, int], branch: str
) -> None:
    """Numbers first, then what followed them in letters."""
    release = parse_release(text)
    assert release is not None
    assert (release.major, release.minor, release.patch) == numbers
    assert release.branch == branch


def test_a_name_without_a_number_is_not_known() -> None:
    """Unknown stays unknown."""
    assert parse_release("CURRENT") is None
    assert parse_release("") is None


def test_a_development_branch_comes_before_its_release() -> None:
    """13-CURRENT is not yet 13.0, but is after 12.4."""
    current = parse_release("13-CURRENT")
    assert current is not None
    assert not current.at_least(13)
    assert current.at_least(12, 4)
