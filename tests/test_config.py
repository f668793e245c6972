"""Configuration files: what is wrong is named by its path."""

from __future__ import annotations

import msgspec
import pytest

from standfast.config import Section, at, between, near, read_toml
from standfast.errors import UsageError


class Inner(Section, frozen=True):
    size: int = 3
    words: tuple[str, ...] = ()


class Outer(Section, frozen=True):
    name: str
    part: dict[str, Inner] = msgspec.field(default_factory=dict)
    main: Inner = Inner()
    more: Inner | None = None


def read(text: str) -> Outer:
    return read_toml(text, Outer, "the file")


def test_values_and_defaults() -> None:
    found = read('name = "x"\n[part.a]\nsize = 4\n')

    assert Outer("x", {"a": Inner(4)}) == found


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("name = ", "the file is not toml: ", ""),
        ('nam = "x"', "nam: there is no such key", "did you mean name?"),
        ('name = "x"\n[part.a]\nsiz = 1', "part.a.siz: there is no", "mean size?"),
        ('name = "x"\n[main]\nqq = 1', "main.qq: there is", "one of: size, words"),
        ('name = "x"\n[part.a]\nsize = "4"', "part.a.size: expected int, got", ""),
        ('name = "x"\n[part.a]\nwords = [1]', "part.a.words[0]: expected str", ""),
        ('name = "x"\n[more]\nsise = 1', "more.sise: there is no", "mean size?"),
        ("", "object missing required field name", ""),
        ('name = "x"\nmain = 3', "main: expected object, got int", ""),
    ],
)
def test_mistakes_are_named_by_their_path(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(text)

    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_check_speaks_of_its_path() -> None:
    with pytest.raises(UsageError, match=r"^a\.b: 7 is not between 0 and 1$"):
        at("a.b", lambda: between(7, 0, 1))
    assert 3 == at("a", lambda: 3)
    assert "did you mean daily?" == near("dayly", ["daily", "weekly"])
