"""The largest vm.kmem_size over RAM, for a release and some KVA_PAGES. Pure.

Two figures a point: what gets past the boot under every assumption, and what boots
with room for what is asked later. Both include the cut to twice RAM. RAM beyond
3.5 GiB is taken to lie above the device hole, where i386 without PAE does not see it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from standfast.errors import UsageError
from standfast.tune import budget, generations, layout
from standfast.tune.model import GIB, MIB, Facts, Verdict
from standfast.tune.picture import escape, head
from standfast.tune.release import parse_release

if TYPE_CHECKING:
    from collections.abc import Sequence

IMAGE = 18 * MIB
TOP = 3 * GIB + GIB // 2
RESERVED = 128 * 1024


@dataclass(frozen=True)
class Point:
    """Limits at one size of RAM, in bytes."""

    ram: int
    kva_pages: int
    hard: int
    roomy: int


def sweep(
    facts: Facts, *, kva_pages: Sequence[int], rams: Sequence[int]
) -> list[Point]:
    """Return the limits for each KVA_PAGES and RAM.

    Raises:
        UsageError: the release has no such limit.
    """
    release = parse_release(facts.release)
    choice = None if release is None else generations.choose(release)
    if choice is None or "i386" not in facts.arch:
        raise UsageError(
            "nothing to plot: only i386 from 7.0 to 11.x has such a limit",
            hint="give --os freebsd --release 8.2 --arch i386",
        )
    points = []
    for pages in kva_pages:
        for ram in rams:
            one = replace(
                facts,
                ram=ram,
                kva_pages=pages,
                image=facts.image or IMAGE,
                top=ram - RESERVED if "pae" in facts.arch else min(ram, TOP) - RESERVED,
            )
            points.append(_point(one, choice))
    return points


def _point(facts: Facts, choice: generations.Choice) -> Point:
    machines, _, _ = budget.assumptions(facts, choice, {})
    hard, roomy = [], []
    for machine in machines:
        base = layout.ground(machine)
        cap = 2 * base.pages * 4096
        hard.append(min(layout.largest(machine, base) - choice.margin, cap))
        roomy.append(min(_roomy(machine, base) - choice.margin, cap))
    assert facts.ram is not None
    assert facts.kva_pages is not None
    return Point(facts.ram, facts.kva_pages, max(min(hard), 0), max(min(roomy), 0))


def _roomy(machine: layout.Machine, base: layout.Ground) -> int:
    low, high = 0, machine.span // MIB + 1
    while high - low > 1:
        middle = (low + high) // 2
        placed = layout.lay_out(machine, middle * MIB, base)
        if budget.outcome(placed) is Verdict.BOOTS:
            low = middle
        else:
            high = middle
    return low * MIB


def csv(points: Sequence[Point]) -> str:
    """Return the points as CSV in MiB."""
    lines = ["ram_mib,kva_pages,boots_up_to_mib,with_room_up_to_mib"]
    lines += [
        f"{p.ram // MIB},{p.kva_pages},{p.hard // MIB},{p.roomy // MIB}" for p in points
    ]
    return "\n".join(lines) + "\n"


_COLORS = ("#4c6a92", "#4f9d69", "#c98b2b", "#8a6fa8", "#b3261e", "#555")
_WIDTH, _HEIGHT = 760, 460
_LEGEND = "solid: boots with room; dashed: gets past the boot, parts may be missing"
_LEFT, _TOP, _RIGHT, _BOTTOM = 64, 56, 150, 52


def svg(points: Sequence[Point], *, title: str) -> str:
    """Return a plot: solid lines boot with room, dashed ones get past the boot."""
    most_ram = max(p.ram for p in points)
    most = max(p.hard for p in points) * 1.05
    x_scale = (_WIDTH - _LEFT - _RIGHT) / most_ram
    y_scale = (_HEIGHT - _TOP - _BOTTOM) / most
    bottom = _HEIGHT - _BOTTOM
    parts = [
        head(_WIDTH, _HEIGHT),
        f'<text x="{_LEFT}" y="22" font-size="15">{escape(title)}</text>',
        f'<text x="{_LEFT}" y="42" font-size="11" fill="#555">{_LEGEND}</text>',
    ]
    parts += _axes(most_ram, most, x_scale, y_scale)
    for index, pages in enumerate(dict.fromkeys(p.kva_pages for p in points)):
        color = _COLORS[index % len(_COLORS)]
        mine = [p for p in points if p.kva_pages == pages]
        for dashed in (False, True):
            path = " ".join(
                f"{_LEFT + p.ram * x_scale:.1f},"
                f"{bottom - (p.hard if dashed else p.roomy) * y_scale:.1f}"
                for p in mine
            )
            dash = ' stroke-dasharray="5 4"' if dashed else ""
            parts.append(
                f'<polyline points="{path}" fill="none" stroke="{color}"'
                f' stroke-width="2"{dash}/>'
            )
        y = bottom - mine[-1].roomy * y_scale
        x = _LEFT + mine[-1].ram * x_scale + 8
        parts.append(
            f'<text x="{x:.1f}" y="{y + 4:.1f}" fill="{color}">KVA_PAGES={pages}</text>'
        )
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _axes(most_ram: int, most: float, x_scale: float, y_scale: float) -> list[str]:
    bottom = _HEIGHT - _BOTTOM
    right = _WIDTH - _RIGHT
    parts = []
    for gib in range(int(most_ram // GIB) + 1):
        x = _LEFT + gib * GIB * x_scale
        parts.append(
            f'<line x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 5}"'
            ' stroke="#222"/>'
            f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{gib}</text>'
        )
    for size in range(0, int(most), 256 * MIB):
        y = bottom - size * y_scale
        parts.append(
            f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"'
            ' stroke="#e4e4e0"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
            f"{size // MIB}</text>"
        )
    parts.append(
        f'<polyline points="{_LEFT},{_TOP} {_LEFT},{bottom} {right},{bottom}"'
        ' fill="none" stroke="#222"/>'
    )
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text x="{middle}" y="{_HEIGHT - 12}" text-anchor="middle">RAM (GiB)</text>'
        f'<text x="16" y="{(_TOP + bottom) / 2}" text-anchor="middle"'
        f' transform="rotate(-90 16 {(_TOP + bottom) / 2})">vm.kmem_size (MiB)</text>'
    )
    return parts
