"""Every reported case and every boot trial beside tune's verdict: `make bench-tune`.

The cases are the facts files of the tests. The boot trials lie beside the checkout
in shared/data (kmem_boots.jsonl); other files of that form may be named instead:
`python bench/tune.py FILE...`. Each trial is judged three times: with exact facts,
with nothing but RAM, KVA_PAGES and the image, and with RAM and KVA_PAGES alone.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from standfast.tune import facts as facts_module
from standfast.tune.model import MIB, Facts, Setting, Verdict
from standfast.tune.plan import judge

ROOT = Path(__file__).resolve().parents[1]
CASES = ROOT / "tests" / "tune" / "cases"
TRIALS = ROOT.parent / "shared" / "data" / "kmem_boots.jsonl"
PASSES = {Verdict.BOOTS, Verdict.THIN}
# Past the boot, but never called safe: a 10.x kernel without its buffers.
GETS_PAST = PASSES | {Verdict.RISKY}
STEP = 4

Row = dict[str, Any]


def as_is(facts: Facts) -> Facts:
    return facts


def without_top(facts: Facts) -> Facts:
    return replace(facts, top=None, cpus=None)


def without_image(facts: Facts) -> Facts:
    return replace(facts, top=None, cpus=None, image=None)


BLURS = {
    "exact facts": as_is,
    "RAM, KVA_PAGES, image": without_top,
    "RAM, KVA_PAGES": without_image,
}


def main(names: list[str]) -> int:
    cases()
    files = [Path(name) for name in names] or [TRIALS]
    rows: list[Row] = []
    for path in files:
        if not path.exists():
            print(f"\nno boot trials at {path}: skipped")
            continue
        rows += [json.loads(line) for line in path.read_text().splitlines() if line]
    return trials(rows) if rows else 0


def cases() -> None:
    print(f"{'case':<22} {'reported':<16} {'verdict':<28} {'risk':<8} agreement")
    agreed = 0
    paths = sorted(CASES.glob("*.json"))
    for path in paths:
        case = json.loads(path.read_text())
        facts = facts_module.from_json(json.dumps(case["facts"]), name=path.name)
        report = judge(facts)
        note = case.get("disagreement", "agrees")
        agreed += "disagreement" not in case
        ignored = any(f.severity.value == "ignored" for f in report.findings)
        verdict = report.verdict.value + (", with a setting ignored" if ignored else "")
        print(
            f"{case['case']:<22} {case['reported']:<16} {verdict:<28}"
            f" {report.level.value:<8} {note}"
        )
    print(f"{agreed} of {len(paths)} agree with what was reported")


def facts_of(row: Row, tops: dict[int, int]) -> Facts:
    pairs = [text.split("=") for text in row.get("other_tunables", [])]
    return Facts(
        "freebsd",
        row["release"],
        row["arch"],
        ram=row["ram_mib"] * MIB,
        top=row.get("visible_bytes") or tops.get(row["ram_mib"]),
        kva_pages=row["kva_pages"],
        image=int(row["kernel_image_mib"] * MIB),
        cpus=1,
        settings=tuple(Setting(name, value) for name, value in pairs),
        zfs=False,
    )


def with_kmem(facts: Facts, size: int) -> Facts:
    setting = Setting("vm.kmem_size", f"{size}M")
    return replace(facts, settings=(setting, *facts.settings))


def trials(rows: list[Row]) -> int:
    tops = {r["ram_mib"]: r["visible_bytes"] for r in rows if r.get("visible_bytes")}
    groups: dict[Facts, list[tuple[int, str]]] = defaultdict(list)
    for row in rows:
        facts = facts_of(row, tops)
        groups[facts].append((row["vm.kmem_size_mib"], row["outcome"]))
    unsafe = 0
    for name, blur in BLURS.items():
        print(f"\nboot trials, {name} (MiB)")
        judged = {key: (blur(key), found) for key, found in groups.items()}
        unsafe += boundaries(judged)
    return 1 if unsafe else 0


def boundaries(groups: dict[Facts, tuple[Facts, list[tuple[int, str]]]]) -> int:
    print(
        f"{'release':<8}{'pages':>6}{'RAM':>6}{'image':>7}  {'tunables':<26}"
        f"{'booted to':>10}{'ours':>7}{'distance':>10}{'unsure':>8}{'unsafe':>8}"
    )
    total, silent, distances = 0, 0, []
    for exact, (facts, found) in sorted(groups.items(), key=lambda g: repr(g[0])):
        unsafe = unsure = 0
        for size, outcome in found:
            verdict = judge(with_kmem(facts, size)).verdict
            unsafe += verdict in PASSES and outcome != "boots"
            unsure += verdict is Verdict.CANNOT_TELL
        real = first_band(found)
        ours = boundary(facts, real) if real else 0
        names = ",".join(f"{s.name}={s.text}" for s in exact.settings)
        print(
            f"{exact.release:<8}{exact.kva_pages:>6}{(exact.ram or 0) // MIB:>6}"
            f"{(exact.image or 0) / MIB:>7.1f}  {names:<26}{real:>10}{ours:>7}"
            f"{real - ours if ours else '-':>10}{unsure:>8}{unsafe:>8}"
        )
        total += unsafe
        silent += not ours
        distances += [real - ours] if real and ours else []
    within = sum(0 <= distance <= STEP for distance in distances)
    safe = sum(0 <= distance <= 12 for distance in distances)
    print(
        f"{len(distances)} boundaries: {within} within 4 MiB, {safe} within 12 MiB,"
        f" all on the safe side: {all(d >= 0 for d in distances)};"
        f" {silent} without an answer near them;"
        f" panics called boots or thin: {total}"
    )
    return total


def first_band(found: list[tuple[int, str]]) -> int:
    """The largest value that booted below the smallest that did not; 0 if unknown."""
    broken = min((size for size, outcome in found if outcome != "boots"), default=0)
    if not broken:
        return 0
    return max((size for size, o in found if o == "boots" and size < broken), default=0)


def boundary(facts: Facts, real: int) -> int:
    """The largest value, on the grid of the trials, that we let past the boot; 0 if
    there is none near the real one."""
    for size in range(real + 32, real - 96, -STEP):
        if judge(with_kmem(facts, size)).verdict in GETS_PAST:
            return size
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
