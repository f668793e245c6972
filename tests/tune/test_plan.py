"""The verdict: the article, every reported case, and what must hold for all facts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standfast.errors import ExitStatus
from standfast.tune import facts as facts_module
from standfast.tune.model import GIB, MIB, Facts, Level, Setting, Severity, Verdict
from standfast.tune.plan import judge

CASES = sorted((Path(__file__).parent / "cases").glob("*.json"))
TRIALS = Path(__file__).parents[3] / "shared" / "data" / "kmem_boots.jsonl"

KERNEL = "include    GENERIC\nident    ZFS-GENERIC\noptions    KVA_PAGES=512\n"
# The two configurations as the article prints them, typographic quotes and all.
WORKS = """\
#Working options for ZFS-GENERIC 2GB RAM, KVA_PAGES=512
vm.kmem_size=\u201d1536M\u201d
vm.kmem_size_max=\u201d1536M\u201d
vfs.zfs.arc_max=\u201d786M\u201d
"""
PANICS = """\
#Trial options for ZFS-GENERIC 4GB RAM, KVA_PAGES=512
vm.kmem_size=\u201d2G\u201d
vm.kmem_size_max=\u201d2G\u201d
vfs.zfs.arc_max=\u201d1792M\u201d
"""


def article(ram: int, loader_conf: str) -> Facts:
    return facts_module.with_files(
        Facts("freebsd", "8.2-RELEASE", "i386", ram=ram),
        facts_module.Sources(
            loader=(("loader.conf", loader_conf),), kernel=(("ZFS-GENERIC", KERNEL),)
        ),
    )


def i386(kmem: str, **given: Any) -> Facts:
    known: dict[str, Any] = {
        "ram": 2 * GIB,
        "top": 2147352576,
        "kva_pages": 512,
        "image": 3 * MIB,
        "cpus": 1,
    }
    return Facts(
        "freebsd",
        given.pop("release", "9.3"),
        "i386",
        settings=(Setting("vm.kmem_size", kmem),),
        **(known | given),
    )


def test_the_articles_first_configuration_boots() -> None:
    """2 GB, KVA_PAGES=512, 1536M: boots, with nothing missing and low risk."""
    report = judge(article(2 * GIB, WORKS))
    assert (report.verdict, report.level) == (Verdict.BOOTS, Level.LOW)
    assert report.effective.kmem == 1536 * MIB
    assert report.effective.arc_max == 786 * MIB


def test_the_articles_second_configuration_panics_with_its_message() -> None:
    """4 GB, 2G: panics, says which allocation, with which message, and by how much."""
    report = judge(article(4 * GIB, PANICS))
    assert report.verdict is Verdict.PANICS
    failure = report.layouts[0].failure
    assert failure is not None
    assert failure.name == "kmem_map"
    assert failure.message == "panic: kmem_suballoc: bad status return of 3"
    assert "before the CPU line" in failure.where
    assert "too little by" in report.why


def test_curly_quotes_are_judged_as_written_and_as_meant() -> None:
    """As written the defaults apply and it boots; the worse verdict is given."""
    report = judge(article(4 * GIB, PANICS))
    said = [f.what for f in report.findings if "as meant" in f.what]
    assert said == [
        "judged as meant: panics at boot; as written (vm.kmem_size 320 MiB): boots"
    ]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_reported_case_gets_its_recorded_verdict(path: Path) -> None:
    """Our verdict stands beside the report; each disagreement is explained."""
    case = json.loads(path.read_text())
    report = judge(facts_module.from_json(json.dumps(case["facts"]), name=path.name))
    assert report.verdict.value == case["verdict"]
    design = Path(__file__).parents[2] / "DESIGN.md"
    assert ("disagreement" in case) == (case["case"] in _disagreements(design))


def _disagreements(design: Path) -> set[str]:
    table = design.read_text().split("## Disagreements")[1].split("\n## ")[0]
    return {
        line.split("|")[1].strip() for line in table.splitlines() if line[:2] == "| "
    }


def test_every_open_case_is_there() -> None:
    """29 reports, dumps and articles were open; each has its facts."""
    assert len(CASES) == 29
    for path in CASES:
        assert json.loads(path.read_text())["source"]


def test_ignored_limits_are_named() -> None:
    """openzfs 10157 and proxmox 48: the limit is ignored, and we say which."""
    for name in ("openzfs-10157", "proxmox-48"):
        case = json.loads(
            (Path(__file__).parent / "cases" / f"{name}.json").read_text()
        )
        report = judge(facts_module.from_json(json.dumps(case["facts"]), name=name))
        ignored = [f for f in report.findings if f.severity is Severity.IGNORED]
        assert [f.what.split()[0] for f in ignored] == ["zfs_arc_max"]


@pytest.mark.parametrize(
    ("release", "kmem", "verdict"),
    [
        ("9.3", "1536M", Verdict.BOOTS),
        ("9.3", "1764M", Verdict.THIN),
        ("9.3", "1778M", Verdict.CANNOT_TELL),
        ("9.3", "1790M", Verdict.PANICS),
        ("9.3", "4G", Verdict.PANICS),
        ("9.3", "1M", Verdict.PANICS),
        ("10.4", "1792M", Verdict.RISKY),
        ("12.1", "2047M", Verdict.BOOTS),
        ("6.4", "1G", Verdict.CANNOT_TELL),
        ("nonsense", "1G", Verdict.CANNOT_TELL),
    ],
)
def test_verdicts_around_a_known_limit(
    release: str, kmem: str, verdict: Verdict
) -> None:
    """9.3 at 2 GiB boots to 1776 and panics from 1780; between we do not guess."""
    assert judge(replace(i386(kmem, release=release), zfs=False)).verdict is verdict


def test_each_verdict_has_the_status_of_its_class() -> None:
    """0 boots, 20 thin or risky, 21 does not boot, 22 cannot tell."""
    assert {v: v.status for v in Verdict} == {
        Verdict.BOOTS: ExitStatus.DONE,
        Verdict.THIN: ExitStatus.RISKY,
        Verdict.RISKY: ExitStatus.RISKY,
        Verdict.HANGS: ExitStatus.RISKY,
        Verdict.OUT_OF_MEMORY: ExitStatus.RISKY,
        Verdict.CANNOT_TELL: ExitStatus.CANNOT_TELL,
        Verdict.NO_ZFS: ExitStatus.DOES_NOT_BOOT,
        Verdict.PANICS: ExitStatus.DOES_NOT_BOOT,
    }


def test_a_module_parameter_that_is_no_number_keeps_zfs_from_loading() -> None:
    """`zfs_arc_max=4G` is refused by the kernel, and the module with it."""
    facts = Facts("linux", "2.2.0", "x86_64", ram=16 * GIB)
    bad = replace(facts, settings=(Setting("zfs_arc_max", "4G"),))
    good = replace(facts, settings=(Setting("zfs_arc_max", "4294967296"),))
    assert judge(bad).verdict is Verdict.NO_ZFS
    assert judge(good).effective.arc_max == 4 * GIB


def test_no_boot_trial_that_panicked_is_called_safe() -> None:
    """With exact facts and with vague ones: never `boots`, thin only never either."""
    if not TRIALS.exists():
        pytest.skip(f"no boot trials beside the checkout: {TRIALS.name}")
    wrong = []
    for line in TRIALS.read_text().splitlines():
        trial = json.loads(line)
        if trial["outcome"] != "panics":
            continue
        exact = _trial_facts(trial)
        vague = replace(exact, top=None, image=None, cpus=None, kva_pages=None)
        wrong += [
            (trial, name)
            for name, facts in (("exact", exact), ("vague", vague))
            if judge(facts).verdict in {Verdict.BOOTS, Verdict.THIN}
        ]
    assert wrong == []


def _trial_facts(trial: dict[str, Any]) -> Facts:
    names = [text.split("=") for text in trial["other_tunables"]]
    return Facts(
        "freebsd",
        trial["release"],
        "i386",
        ram=trial["ram_mib"] * MIB,
        top=trial["visible_bytes"],
        kva_pages=trial["kva_pages"],
        image=int(trial["kernel_image_mib"] * MIB),
        cpus=1,
        settings=(
            Setting("vm.kmem_size", f"{trial['vm.kmem_size_mib']}M"),
            *(Setting(name, value) for name, value in names),
        ),
        zfs=False,
    )


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["8.0", "8.2", "9.0-CURRENT", "9.3"]),
    st.sampled_from([256, 512]),
    st.integers(1024, 3000),
    st.integers(256, 2100),
    st.integers(16, 128),
)
def test_asking_for_less_never_turns_boots_into_panics(
    release: str, pages: int, ram: int, kmem: int, less: int
) -> None:
    """Where the formula is monotone: less kmem, or a smaller image, is no worse."""
    facts = i386(
        f"{kmem}M", release=release, kva_pages=pages, ram=ram * MIB, top=ram * MIB
    )
    facts = replace(facts, zfs=False)
    if judge(facts).verdict is not Verdict.BOOTS:
        return
    smaller = replace(facts, settings=(Setting("vm.kmem_size", f"{kmem - less}M"),))
    assert judge(smaller).verdict is Verdict.BOOTS
    lighter = replace(facts, image=2 * MIB)
    assert judge(lighter).verdict is Verdict.BOOTS


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 512), st.integers(0, 1 << 39))
def test_more_ram_never_makes_a_64_bit_host_panic(gib: int, kmem: int) -> None:
    """On amd64 RAM takes no address space of kmem: more of it changes no verdict to
    a panic."""
    setting = (Setting("vm.kmem_size", str(kmem)),)
    small = Facts("freebsd", "9.3", "amd64", ram=gib * GIB, settings=setting)
    if judge(small).verdict is Verdict.PANICS:
        return
    large = replace(small, ram=(gib + 7) * GIB)
    assert judge(large).verdict is not Verdict.PANICS or kmem > 512 * GIB


def test_an_image_that_nearly_fills_a_superpage_is_tried_both_ways() -> None:
    """4 + 12 MiB end exactly at a superpage: a little more costs 4 MiB of limit."""
    inside = judge(i386("1700M", image=11 * MIB)).limit
    border = judge(i386("1700M", image=12 * MIB)).limit
    assert inside is not None
    assert inside[0] == inside[1]
    assert border == (inside[1] - 4 * MIB, inside[1])


@pytest.mark.parametrize(
    ("release", "top", "booted", "panicked"),
    [
        ("8.0", 2147352576, 1636, 1640),
        ("9.0-CURRENT", 2147352576, 1636, 1640),
        ("9.0-CURRENT", 3756916736, 1608, 1612),
    ],
)
def test_twelve_mib_of_modules_move_the_limit_as_they_did_in_the_boots(
    release: str, top: int, booted: int, panicked: int
) -> None:
    """Kernels of 3 MiB with a module of 12 MiB preloaded: booted, and panicked."""
    for size, never in ((booted, Verdict.PANICS), (panicked, Verdict.THIN)):
        facts = i386(f"{size}M", release=release, top=top, image=15 * MIB)
        assert judge(replace(facts, zfs=False)).verdict is not never
    limit = judge(i386("1G", release=release, top=top, image=15 * MIB)).limit
    assert limit is not None
    assert booted * MIB <= limit[0] < panicked * MIB
