"""loader.conf by the Forth and the Lua loader, line by line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.tune.loaderconf import Loader, loader_of, parse, render
from standfast.tune.model import Setting
from standfast.tune.release import parse_release

# As the article prints them, typographic quotes and all.
ARTICLE_2G = """\
#Working options for ZFS-GENERIC 2GB RAM, KVA_PAGES=512
vm.kmem_size=\u201d1536M\u201d
vm.kmem_size_max=\u201d1536M\u201d
vfs.zfs.arc_max=\u201d786M\u201d
"""


def pairs(settings: tuple[Setting, ...]) -> list[tuple[str, str]]:
    return [(setting.name, setting.text) for setting in settings]


@pytest.mark.parametrize(
    ("line", "forth", "lua"),
    [
        ('a="2G"', "2G", "2G"),
        ("a=2G", "2G", "2G"),
        ("a=\u201d2G\u201d", None, None),
        ("a=1.5G", "1.5G", None),
        ('a = "2G"', "2G", "2G"),
        ('a="2G" # why', "2G", "2G"),
        ("a='2G'", None, None),
        ('a="2G', None, None),
        ("a", None, None),
        ("a=-1", "-1", "-1"),
        ('a="say \\"x\\""', 'say "x"', None),
    ],
)
def test_each_loader_reads_the_line_its_own_way(
    line: str, forth: str | None, lua: str | None
) -> None:
    """The table of the two parsers, from support.4th and config.lua."""
    for loader, value in ((Loader.FORTH, forth), (Loader.LUA, lua)):
        parsed = parse(line, file="f", loader=loader)
        assert pairs(parsed.settings) == ([] if value is None else [("a", value)])
        assert bool(parsed.notes) == (value is None)


def test_forth_skips_the_rest_of_the_file_and_lua_goes_on() -> None:
    """After a bad line Forth reads nothing more of that file."""
    text = "a=1\nb=\u201d2\u201d\nc=3\n"
    forth = parse(text, file="f", loader=Loader.FORTH)
    lua = parse(text, file="f", loader=Loader.LUA)
    assert pairs(forth.settings) == [("a", "1")]
    assert pairs(lua.settings) == [("a", "1"), ("c", "3")]
    assert [note.place for note in forth.notes] == ["f:2", "f:3"]
    assert [note.place for note in lua.notes] == ["f:2"]


def test_the_articles_lines_never_reach_the_kernel_as_they_stand() -> None:
    """Curly quotes lose every line; what was meant is kept beside it, by line."""
    parsed = parse(ARTICLE_2G, file="loader.conf", loader=Loader.FORTH)
    assert parsed.settings == ()
    assert parsed.meant == (
        Setting("vm.kmem_size", "1536M", "loader.conf", 2),
        Setting("vm.kmem_size_max", "1536M", "loader.conf", 3),
        Setting("vfs.zfs.arc_max", "786M", "loader.conf", 4),
    )


def test_duplicates_are_named_with_the_line_that_wins() -> None:
    """The later of two settings wins, and the earlier is told so."""
    parsed = parse("a=1\na=2\n", file="f", loader=Loader.LUA)
    assert [(note.place, "line 2" in note.what) for note in parsed.notes] == [
        ("f:1", True)
    ]


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"[a-z][a-z0-9_.]{0,12}[a-z0-9]", fullmatch=True),
            st.from_regex(r"[0-9]{1,9}[kKmMgG]?", fullmatch=True),
        ),
        max_size=6,
        unique_by=lambda pair: pair[0],
    )
)
def test_printed_settings_read_back_the_same(items: list[tuple[str, str]]) -> None:
    """render then parse gives the same settings, by either loader."""
    text = render(tuple(Setting(name, value) for name, value in items))
    for loader in Loader:
        parsed = parse(text, file="f", loader=loader)
        assert pairs(parsed.settings) == items
        assert parsed.notes == ()


def test_lua_reads_it_from_12_on() -> None:
    """Which loader is asked depends on the release."""
    assert loader_of(parse_release("11.4-RELEASE")) is Loader.FORTH
    assert loader_of(parse_release("12.0-RELEASE")) is Loader.LUA
    assert loader_of(None) is Loader.FORTH
