"""Advice always checks as `boots`, keeps what does no harm, and writes with care."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standfast.cli.tune_advice import write_kept
from standfast.errors import ExitStatus, UsageError
from standfast.tune import facts as facts_module
from standfast.tune.model import GIB, MIB, Facts, Level, Setting, Verdict
from standfast.tune.plan import judge
from standfast.tune.recommend import (
    CannotRecommendError,
    Role,
    apply_to_text,
    recommend,
)
from standfast.tune.trial import Boot, Return, steps

if TYPE_CHECKING:
    from pathlib import Path

PANICS = 'vm.kmem_size="2G"\nvm.kmem_size_max="2G"\nvfs.zfs.arc_max="1792M"\n'


def article(text: str = PANICS) -> Facts:
    return facts_module.with_files(
        Facts("freebsd", "8.2-RELEASE", "i386", ram=4 * GIB, kva_pages=512),
        facts_module.Sources(loader=(("loader.conf", text),)),
    )


def test_the_articles_machine_gets_a_layout_that_boots() -> None:
    """4 GB and KVA_PAGES=512: a kmem below the limit, an ARC at low risk."""
    result = recommend(article(), Role.STORAGE)
    report = judge(result.facts)
    assert (report.verdict, report.level) == (Verdict.BOOTS, Level.LOW)
    assert {one.setting.name for one in result.advice} == {
        "vm.kmem_size",
        "vm.kmem_size_max",
        "vfs.zfs.arc_max",
    }
    assert all(one.why for one in result.advice)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["7.2", "8.0", "8.2", "8.4", "9.1", "9.3", "10.4", "11.2"]),
    st.sampled_from([256, 384, 512, 768]),
    st.integers(640, 4096),
    st.sampled_from(list(Role)),
)
def test_advice_for_any_i386_host_checks_as_boots(
    release: str, pages: int, ram: int, role: Role
) -> None:
    """Whatever the host: boots and low risk, or no advice at all."""
    facts = Facts("freebsd", release, "i386", ram=ram * MIB, kva_pages=pages)
    report = judge(recommend(facts, role).facts)
    assert (report.verdict, report.level) == (Verdict.BOOTS, Level.LOW)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(
        [
            ("freebsd", "7.2", "amd64"),
            ("freebsd", "8.0", "amd64"),
            ("freebsd", "9.3", "amd64"),
            ("freebsd", "11.4", "amd64"),
            ("freebsd", "12.1", "i386"),
            ("freebsd", "14.1", "arm64"),
            ("linux", "0.8.3", "x86_64"),
            ("linux", "2.0.3", "x86_64"),
            ("linux", "2.3.1", "aarch64"),
        ]
    ),
    st.integers(1024, 1 << 19),
    st.sampled_from(list(Role)),
)
def test_advice_for_any_other_host_checks_as_boots(
    host: tuple[str, str, str], ram: int, role: Role
) -> None:
    """64-bit FreeBSD, i386 from 12 on, and Linux: nothing ignored, nothing risky."""
    facts = Facts(*host, ram=ram * MIB)
    result = recommend(facts, role)
    report = judge(result.facts)
    assert report.verdict is Verdict.BOOTS
    assert [f.what for f in report.findings if f.severity.value == "ignored"] == []


def test_the_users_own_settings_stay_when_they_do_no_harm() -> None:
    """1400M boots with low risk, so it stays and says so; only the rest is added."""
    result = recommend(article('vm.kmem_size="1400M"\n'), Role.MIXED)
    kept = [one for one in result.advice if one.kept]
    assert [one.setting.text for one in kept] == ["1400M"]
    assert "stays" in kept[0].why
    assert result.dropped == ()


def test_harmful_settings_are_named_with_the_reason() -> None:
    """Each setting that goes is listed, with what it would do."""
    result = recommend(article(), Role.STORAGE)
    assert {one.setting.text for one in result.dropped} == {"2G", "1792M"}
    assert all("panics at boot" in one.why for one in result.dropped)


def test_a_reserve_is_kept_from_the_arc() -> None:
    """--reserve 2G on a 16 GiB host leaves the ARC 14 GiB at most."""
    facts = Facts("linux", "2.2.0", "x86_64", ram=16 * GIB)
    result = recommend(facts, Role.STORAGE, reserve=2 * GIB)
    assert result.report.effective.arc_max == 14 * GIB
    with pytest.raises(CannotRecommendError):
        recommend(facts, Role.STORAGE, reserve=16 * GIB)


def test_without_ram_there_is_no_advice() -> None:
    """Too little known is "cannot tell", not a guess."""
    with pytest.raises(CannotRecommendError) as caught:
        recommend(Facts("freebsd", "9.3", "amd64"), Role.STORAGE)
    assert caught.value.status is ExitStatus.CANNOT_TELL


def test_a_file_with_the_advice_in_place_reads_back_as_the_advice() -> None:
    """Comments stay, bad lines become comments, each name stands once."""
    text = (
        '# mine\nzfs_load="YES"\nvm.kmem_size=\u201d2G\u201d\nbroken line\n'
        'vfs.zfs.arc_max="1792M"\nvm.kmem_size="2G"\n'
    )
    facts = article(text)
    result = recommend(facts, Role.STORAGE)
    fresh = apply_to_text(facts, result, text)
    again = facts_module.with_files(
        Facts("freebsd", "8.2-RELEASE", "i386", ram=4 * GIB, kva_pages=512),
        facts_module.Sources(loader=(("loader.conf", fresh),)),
    )
    assert again.notes == ()
    assert {(s.name, s.text) for s in again.settings} == {
        ("zfs_load", "YES"),
        *((one.setting.name, one.setting.text) for one in result.advice),
    }
    assert fresh.startswith("# mine\n")
    assert "broken line" in fresh


def test_writing_keeps_the_old_file_and_its_mode(tmp_path: Path) -> None:
    """The old text stands beside the new one, each time under a new name."""
    target = tmp_path / "loader.conf"
    target.write_text("old")
    target.chmod(0o640)
    first = write_kept(target, "new")
    second = write_kept(target, "newer")
    assert first is not None
    assert second is not None
    assert (first.read_text(), second.read_text()) == ("old", "new")
    assert (target.read_text(), target.stat().st_mode & 0o777) == ("newer", 0o640)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "loader.conf",
        "loader.conf.before-tune",
        "loader.conf.before-tune1",
    ]
    assert write_kept(tmp_path / "fresh.conf", "text") is None
    assert (tmp_path / "fresh.conf").read_text() == "text"
    with pytest.raises(UsageError):
        write_kept(tmp_path / "none" / "loader.conf", "new")


@pytest.mark.parametrize(
    ("release", "boot", "returns"),
    [
        ("12.1", Boot.ZFS, Return.NO),
        ("12.1", Boot.UFS, Return.YES),
        ("8.2", Boot.UNKNOWN, Return.UNSURE),
    ],
)
def test_nextboot_comes_back_by_itself_on_ufs_only(
    release: str, boot: Boot, returns: Return
) -> None:
    """The loader can switch nextboot.conf off on UFS and not on ZFS."""
    facts = Facts("freebsd", release, "i386")
    ways = {w.name: w for w in steps(facts, [Setting("a", "1")], boot=boot).ways}
    assert ways["nextboot"].returns is returns
    assert ways["nextboot"].steps[0].startswith("nextboot -e a=1 -k kernel")
    assert ways["loader prompt"].returns is Return.YES
    assert ways["edit /boot/loader.conf"].returns is Return.NO


def test_the_safest_way_comes_first_and_there_is_a_way_out() -> None:
    """On every system the first way comes back by itself, and rescue is not empty."""
    for facts in (Facts("freebsd", "13.2", "amd64"), Facts("linux", "2.2.0", "x86_64")):
        trial = steps(facts, [Setting("zfs_arc_max", "1")], boot=Boot.ZFS)
        assert trial.ways[0].returns is Return.YES
        assert trial.rescue
    with pytest.raises(UsageError):
        steps(Facts("freebsd", "13.2"), [], boot=Boot.ZFS)
