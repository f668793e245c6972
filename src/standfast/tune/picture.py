"""The kernel's address space as a picture, to scale: for a terminal and as SVG.

Pure: layouts in, text out. Address 0 is KERNBASE and stands first, since that is
the order in which the kernel asks. A request that does not fit is drawn from the
start of the largest gap, at its full size, past the end of what there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.tune.model import MIB, Failure, Layout, Report, Verdict, mib

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WIDTH = 64


@dataclass(frozen=True)
class Column:
    """One layout with its heading."""

    title: str
    report: Report

    @property
    def layout(self) -> Layout:
        """The layout that is drawn: the most likely assumption."""
        return self.report.layouts[0]


@dataclass(frozen=True)
class Block:
    """A piece of a column: reserved, free, or the request that broke the boot."""

    name: str
    start: int
    size: int
    kind: str


def blocks(layout: Layout) -> list[Block]:
    """Return the pieces of a layout by address; free ones of 1 MiB and more."""
    found = [
        Block(piece.name, piece.start, piece.size, _kind(piece.name))
        for piece in layout.reservations
        if piece.size
    ]
    lost = set(layout.holes)
    found += [
        Block("free" if at not in lost else "lost to alignment", *at, "free")
        for at in layout.gaps
        if at[1] >= MIB
    ]
    return sorted(found, key=lambda block: block.start)


def _kind(name: str) -> str:
    if name.startswith("kmem"):
        return "kmem"
    if name in {"kernel image", "bootstrap maps", "page array", "boot arrays"}:
        return "kernel"
    if name in {"clean_map", "buffer headers", "buffer KVA"}:
        return "buffers"
    return "other"


def terminal(column: Column) -> Iterator[str]:
    """Yield lines: one a piece, its bar where it lies, name and size beside it."""
    layout = column.layout
    failure = layout.failure
    end = layout.span
    if failure is not None:
        end = max(end, failure.gap[0] + failure.size)
    yield f"{column.title}: {column.report.verdict.value}"
    edge = round(layout.span / end * WIDTH)
    yield f"0 {'-' * max(edge - 3, 1)} {mib(layout.span)}"
    for block in blocks(layout):
        mark = "." if block.kind == "free" else "#"
        yield _row(_bar(block.start, block.size, end, mark), block.name, block.size)
    if failure is not None:
        inside = _bar(failure.gap[0], layout.span - failure.gap[0], end, "x")
        inside = inside[:edge].ljust(edge) + "|"
        beyond = failure.gap[0] + failure.size - layout.span
        bar = (
            inside + ">" * max(1, round(beyond / end * WIDTH)) if beyond > 0 else inside
        )
        yield _row(bar, f"{failure.name} DOES NOT FIT", failure.size)
        yield f"{_short(failure)}; {failure.message}"
    elif layout.missing:
        yield f"missing, in silence: {', '.join(layout.missing)}"


def _bar(start: int, size: int, end: int, mark: str) -> str:
    first = int(start / end * WIDTH)
    return " " * first + mark * max(1, round(size / end * WIDTH))


def _row(bar: str, name: str, size: int) -> str:
    return f"{bar:<{WIDTH + 2}} {name} {mib(size)}"


def _short(failure: Failure) -> str:
    short = failure.size - failure.gap[1]
    text = f"{mib(failure.size)} asked, {mib(failure.gap[1])} in one piece"
    if short > 0:
        return f"{text}: {mib(short)} too little"
    return f"{text}, but not at an aligned start"


_FILL = {
    "kernel": "#4c6a92",
    "kmem": "#4f9d69",
    "buffers": "#c98b2b",
    "other": "#8a6fa8",
    "free": "#f2f2ef",
}
_VERDICT_FILL = {
    Verdict.BOOTS: "#2c7a47",
    Verdict.PANICS: "#b3261e",
}
_HEIGHT = 620
_TOP = 100
_BAR = 110
_COLUMN = 400
_LEFT = 74
_ROW = 17


def svg(columns: Sequence[Column]) -> str:
    """Return an SVG with one column a layout, all to the same scale."""
    end = max(_furthest(column.layout) for column in columns)
    width = _COLUMN * len(columns) + 20
    height = _TOP + _HEIGHT + 48
    parts = [
        head(width, height),
        "<title>Kernel address space at boot</title>",
        _DEFINITIONS,
    ]
    for index, column in enumerate(columns):
        parts.extend(_column(column, _COLUMN * index, _HEIGHT / end))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def head(width: int, height: int) -> str:
    """Return the opening of an SVG of that size on white."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" font-family="DejaVu Sans, Verdana,'
        ' sans-serif" font-size="12" fill="#222">'
        f'<rect width="{width}" height="{height}" fill="#fff"/>'
    )


def escape(text: str) -> str:
    """Return text that is safe between tags."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_DEFINITIONS = (
    '<defs><pattern id="broken" width="8" height="8" patternUnits="userSpaceOnUse"'
    ' patternTransform="rotate(45)"><rect width="8" height="8" fill="#f7d6d3"/>'
    '<rect width="3" height="8" fill="#b3261e"/></pattern></defs>'
)


def _furthest(layout: Layout) -> int:
    failure = layout.failure
    if failure is None:
        return layout.span
    return max(layout.span, failure.gap[0] + failure.size)


def _column(column: Column, left: int, scale: float) -> Iterator[str]:
    layout = column.layout
    yield _text(left + 16, 26, column.title, 'font-size="15" font-weight="bold"')
    color = _VERDICT_FILL.get(column.report.verdict, "#8a6d00")
    verdict = column.report.verdict.value
    yield _text(left + 16, 46, verdict, f'font-size="14" fill="{color}"')
    yield _text(left + 16, 66, _subtitle(column), 'font-size="11" fill="#555"')
    x = left + _LEFT
    yield from _ticks(layout, left, scale)
    shown = [b for b in blocks(layout) if not _covered(b, layout.failure)]
    for block in shown:
        yield _block(block, x, scale)
    yield (
        f'<rect x="{x}" y="{_TOP}" width="{_BAR}" height="{layout.span * scale:.1f}"'
        ' fill="none" stroke="#222" stroke-width="1.5"/>'
    )
    if layout.failure is not None:
        yield from _failure(layout, layout.failure, x, scale)
    elif layout.missing:
        below = _TOP + layout.span * scale + 38
        absent = f"missing, in silence: {', '.join(layout.missing)}"
        yield _text(left + 16, below, absent, 'font-size="11" fill="#8a6d00"')
    yield from _labels(shown, layout, x, scale)


def _subtitle(column: Column) -> str:
    for line in column.report.lines:
        if line.name == "address space":
            parts = line.how.split(", ")
            return ", ".join(parts[:1] + parts[2:3] + parts[4:])
    return ""


def _covered(block: Block, failure: Failure | None) -> bool:
    """The gap that the failed request is drawn over needs no box of its own."""
    return (
        failure is not None and block.kind == "free" and block.start == failure.gap[0]
    )


def _ticks(layout: Layout, left: int, scale: float) -> Iterator[str]:
    step = 256 * MIB if layout.span > 768 * MIB else 128 * MIB
    for at in range(0, layout.span + 2 * MIB, step):
        y = _TOP + at * scale
        yield (
            f'<line x1="{left + _LEFT - 6}" y1="{y:.1f}" x2="{left + _LEFT}"'
            f' y2="{y:.1f}" stroke="#222"/>'
        )
        label = f"{at // MIB}"
        yield _text(left + _LEFT - 10, y + 4, label, 'text-anchor="end" font-size="11"')
    y = _TOP - 14
    yield _text(left + _LEFT - 10, y, "MiB", 'text-anchor="end" font-size="11"')


def _block(block: Block, x: float, scale: float) -> str:
    height = max(block.size * scale, 0.6)
    return (
        f'<rect x="{x}" y="{_TOP + block.start * scale:.1f}" width="{_BAR}"'
        f' height="{height:.1f}" fill="{_FILL[block.kind]}" stroke="#fff"'
        f' stroke-width="0.4"><title>{block.name}: {mib(block.size)}</title></rect>'
    )


def _failure(layout: Layout, failure: Failure, x: float, scale: float) -> Iterator[str]:
    y = _TOP + failure.gap[0] * scale
    height = max(failure.size * scale, 4)
    yield (
        f'<rect x="{x + 8}" y="{y:.1f}" width="{_BAR - 16}" height="{height:.1f}"'
        ' fill="url(#broken)" stroke="#b3261e" stroke-width="1.5"/>'
    )
    edge = _TOP + layout.span * scale
    below = max(y + height, edge) + 24
    console = 'font-family="DejaVu Sans Mono, monospace" font-size="11"'
    yield _text(x - _LEFT + 16, below, failure.message, f'{console} fill="#b3261e"')
    yield (
        f'<line x1="{x}" y1="{edge:.1f}" x2="{x + _BAR + 14}" y2="{edge:.1f}"'
        ' stroke="#b3261e" stroke-width="2.5" stroke-dasharray="6 3"/>'
    )


def _labels(
    shown: list[Block], layout: Layout, x: float, scale: float
) -> Iterator[str]:
    """Names beside the bar, pushed apart so that none covers another."""
    wanted = [
        (_TOP + (b.start + b.size / 2) * scale, f"{b.name}  {mib(b.size)}", "")
        for b in shown
        if b.size >= MIB
    ]
    failure = layout.failure
    if failure is not None:
        middle = failure.gap[0] + min(failure.size, failure.gap[1]) / 2
        bold = 'font-weight="bold" fill="#b3261e"'
        wanted.append(
            (
                _TOP + middle * scale,
                f"{failure.name} asks for {mib(failure.size)}",
                bold,
            )
        )
        edge = _TOP + layout.span * scale
        wanted.append((edge + 2, f"{mib(_over(failure))} too little", bold))
    wanted.sort(key=lambda item: item[0])
    placed = _spread([item[0] for item in wanted])
    for (y, label, style), at in zip(wanted, placed, strict=True):
        yield (
            f'<polyline points="{x + _BAR},{y:.1f} {x + _BAR + 14},{at:.1f}'
            f' {x + _BAR + 20},{at:.1f}" fill="none" stroke="#999"/>'
        )
        yield _text(x + _BAR + 24, at + 4, label, style)


def _over(failure: Failure) -> int:
    return max(failure.size - failure.gap[1], 0)


def _spread(wanted: list[float]) -> list[float]:
    """Return label positions at least a row apart, as near as can be to the wish."""
    placed: list[float] = []
    for y in wanted:
        placed.append(max(y, placed[-1] + _ROW) if placed else y)
    bottom = _TOP + _HEIGHT + 20.0
    for index in range(len(placed) - 1, -1, -1):
        placed[index] = min(placed[index], bottom)
        bottom = placed[index] - _ROW
    return placed


def _text(x: float, y: float, text: str, style: str = "") -> str:
    space = " " if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{space}{style}>{escape(text)}</text>'
