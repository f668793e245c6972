"""Kernel configurations, modprobe.d, sysctl.conf, and files over files."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.tune import facts as facts_module
from standfast.tune import kernelconf, modprobe
from standfast.tune.model import Facts, Setting, Severity
from standfast.tune.release import parse_release

ARTICLE_KERNEL = """\
include    GENERIC
ident    ZFS-GENERIC
options    KVA_PAGES=512
"""


def test_the_articles_kernel_sets_kva_pages_and_notes_what_is_not_at_hand() -> None:
    """`options KVA_PAGES=512` counts even though GENERIC cannot be read."""
    config = kernelconf.parse(
        ARTICLE_KERNEL, file="ZFS-GENERIC", include=facts_module.nothing
    )
    assert dict(config.options) == {"KVA_PAGES": "512"}
    assert [(note.severity, note.place) for note in config.notes] == [
        (Severity.NOTE, "ZFS-GENERIC:1")
    ]


def test_includes_are_read_and_nooptions_take_away() -> None:
    """An included option counts until `nooptions` names it."""
    inner = {"BASE": "options PAE\noptions\tKVA_PAGES=1024 # two\noptions SMP, INET\n"}
    config = kernelconf.parse(
        "include BASE\nnooptions SMP\n", file="K", include=inner.get
    )
    assert dict(config.options) == {"PAE": "", "KVA_PAGES": "1024", "INET": ""}


def test_a_file_that_includes_itself_ends() -> None:
    """Depth is bounded; the file is still judged."""
    config = kernelconf.parse(
        "options A\ninclude K\n", file="K", include=lambda _: "include K\noptions B\n"
    )
    assert ("A", "") in config.options


def test_kva_pages_that_will_not_build_are_fatal() -> None:
    """pmap.h wants a multiple of 4, of 8 with PAE."""
    for text, bad in (("KVA_PAGES=510", True), ("KVA_PAGES=512", False)):
        config = kernelconf.parse(
            f"options {text}\n", file="K", include=facts_module.nothing
        )
        assert any(n.severity is Severity.FATAL for n in config.notes) == bad


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("(512UL*1024*1024)", 512 << 20),
        ("1024*1024", 1 << 20),
        ("0x100", 256),
        ("x", None),
    ],
)
def test_sizes_in_options_are_products(text: str, size: int | None) -> None:
    """MAXDSIZ and its like are written as C products."""
    assert kernelconf.size_option(text) == size


def test_modprobe_takes_whole_bytes_only() -> None:
    """A suffix means that the module will not load, which is fatal."""
    parsed = modprobe.parse(
        "# mine\noptions zfs zfs_arc_max=4G\noptions zfs zfs_arc_min=1 \\\n"
        " zfs_arc_max=0x10\noptions zfss zfs_arc_max=1\nzfs_arc_max=1\n",
        file="zfs.conf",
    )
    assert [(s.name, s.text, s.line) for s in parsed.settings] == [
        ("zfs_arc_min", "1", 3),
        ("zfs_arc_max", "0x10", 3),
    ]
    assert [(n.severity, n.place) for n in parsed.notes] == [
        (Severity.FATAL, "zfs.conf:2"),
        (Severity.WARNING, "zfs.conf:5"),
        (Severity.WARNING, "zfs.conf:6"),
    ]


@given(st.dictionaries(st.sampled_from(["zfs_arc_max", "zfs_arc_min"]), st.integers(0)))
def test_printed_module_options_read_back(values: dict[str, int]) -> None:
    """render then parse gives the same numbers."""
    settings = tuple(Setting(name, str(value)) for name, value in values.items())
    parsed = modprobe.parse(modprobe.render(settings), file="f")
    assert {s.name: modprobe.number(s.text) for s in parsed.settings} == values


def test_sysctl_conf_is_too_late_for_boot_settings() -> None:
    """vm.kmem_size is read at boot; arc_max can be written from 10.4 on."""
    text = 'vm.kmem_size="1G"\nvfs.zfs.arc_max=1000000000\n'
    late = modprobe.parse_sysctl(text, file="s", release=parse_release("9.3"))
    fresh = modprobe.parse_sysctl(text, file="s", release=parse_release("10.4"))
    assert [s.name for s in late.settings] == []
    assert [s.name for s in fresh.settings] == ["vfs.zfs.arc_max"]


def test_a_later_file_overrides_an_earlier_one_and_says_so() -> None:
    """loader.conf.local wins over loader.conf."""
    facts = facts_module.with_files(
        Facts("freebsd", release="9.3"),
        facts_module.Sources(
            loader=(("loader.conf", "a=1\n"), ("loader.conf.local", "a=2\n"))
        ),
    )
    assert [n.what for n in facts.notes] == ["a is overridden by loader.conf.local:1"]


def test_saved_facts_read_back_the_same() -> None:
    """to_json then from_json is the identity."""
    facts = facts_module.with_files(
        Facts("freebsd", "8.2", "i386", ram=1 << 31, origin="flags"),
        facts_module.Sources(
            loader=(("l", "a=\u201d1\u201d\nb=2\n"),), kernel=(("k", ARTICLE_KERNEL),)
        ),
    )
    text = json.dumps(facts_module.to_json(facts))
    assert facts_module.from_json(text, name="f") == facts
