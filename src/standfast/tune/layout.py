"""Boot an i386 kernel from 7.0 to 11.x on paper: place every reservation in order.

Pure. Each size comes from its rule; this module only knows the order in which the
kernel asks, and what it does when there is no room. A machine with PAE runs the
same order with its own constants, which no boot has checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.tune.kva import Arena, KernelMap, NoRoom, round_up
from standfast.tune.model import MIB, PAGE, Failure, Layout, Reservation
from standfast.tune.rules import (
    autotune,
    boot_arrays,
    buffers,
    kernel_end,
    kva_span,
    pv_chunks,
    radix_nodes,
    submaps,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from standfast.tune.generations import Generation

EARLY = "before the CPU line; the last line names the build folder or the compiler"
MIDDLE = "right after the line `real memory  = ...`; `avail memory` never appears"
LATE = "after `avail memory`"


@dataclass(frozen=True)
class Machine:
    """One complete set of assumptions about an i386 machine.

    Attributes:
        kernel: whose constants.
        arch: ``i386`` or ``i386-pae``.
        kva_pages: page directory entries of the kernel's space.
        image: bytes of kernel and preloaded modules.
        top: one past the highest usable physical address.
        smp: whether the kernel has options SMP.
        tunables: loader tunables by name.
    """

    kernel: Generation
    arch: str
    kva_pages: int
    image: int
    top: int
    smp: bool
    tunables: Mapping[str, int]

    @property
    def span(self) -> int:
        """Bytes of kernel address space."""
        return kva_span.span(self.arch, self.kva_pages)

    @property
    def superpage(self) -> int:
        """Bytes of a large page."""
        return kva_span.ENTRY[self.arch]

    def text(self) -> str:
        """Say what is assumed, in one line."""
        top = f"{self.top / MIB:.1f}".removesuffix(".0")
        return (
            f"{self.kernel.name} layout, {'SMP' if self.smp else 'UP'},"
            f" KVA_PAGES={self.kva_pages}, kernel and modules"
            f" {self.image / MIB:.1f} MiB, RAM up to {top} MiB"
        )


@dataclass(frozen=True)
class Ground:
    """What is fixed before kmem: sizes by RAM, and the map's first free address."""

    fixed: tuple[Reservation, ...]
    start: int
    physmem: int
    pages: int
    processes: int


def ground(machine: Machine) -> Ground:
    """Place what does not depend on any kmem setting."""
    kernel = machine.kernel
    first = kernel_end.first_free(kernel, machine.arch, machine.image)
    image = kernel_end.image_end(machine.arch, machine.image)
    start = kernel_end.bootstrap_end(
        kernel,
        machine.arch,
        machine.image,
        kva_pages=machine.kva_pages,
        smp=machine.smp,
    )
    arrays = boot_arrays.place(kernel, start, machine.top, superpage=machine.superpage)
    physmem = autotune.physical_pages(machine.arch, machine.top, first)
    used = machine.top - arrays.physical
    low, high = arrays.array
    fixed = (
        Reservation("kernel image", 0, image, "kernel and modules, rounded up"),
        Reservation("bootstrap maps", image, low - image, "page tables, windows"),
        Reservation("page array", low, high - low, "one structure a page of RAM"),
        Reservation("boot arrays", high, arrays.end - high, "reservations, padding"),
    )
    return Ground(
        fixed,
        arrays.end,
        physmem,
        physmem - used // PAGE,
        autotune.maxproc(physmem, machine.tunables),
    )


def lay_out(machine: Machine, kmem: int, base: Ground | None = None) -> Layout:
    """Return the layout for a ``vm.kmem_size`` of ``kmem`` bytes after all limits.

    Args:
        machine: the assumptions.
        kmem: bytes.
        base: what `ground` returned for the machine, if it is at hand.
    """
    base = base or ground(machine)
    kernel_map = KernelMap(base.start, machine.span, superpage=machine.superpage)
    boot = _Boot(machine, base, kernel_map)
    failure = None
    try:
        if machine.kernel.arena:
            boot.with_arena(kmem)
        else:
            boot.without_arena(kmem)
    except _Broken as broken:
        failure = broken.failure
    left = kernel_map.largest_gap()[1]
    if machine.kernel.arena:
        left = left // machine.superpage * machine.superpage
    if failure is None:
        boot.after()
    return Layout(
        kernel=machine.kernel.name,
        span=machine.span,
        reservations=base.fixed + tuple(sorted(kernel_map.taken, key=_by_start)),
        failure=failure,
        missing=tuple(boot.missing),
        left=left,
        wanted=boot.sf_bytes() + machine.kernel.later_bytes + machine.kernel.swap_bytes,
    )


def _by_start(piece: Reservation) -> int:
    return piece.start


class _Broken(Exception):  # noqa: N818 - the end of a boot, not an error of ours
    """The boot ends here."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


class _Boot:
    """The requests of one boot, in the kernel's order."""

    def __init__(self, machine: Machine, base: Ground, kernel_map: KernelMap) -> None:
        self.machine = machine
        self.kernel = machine.kernel
        self.base = base
        self.map = kernel_map
        self.arena = Arena(kernel_map)
        self.missing: list[str] = []
        self.buffers = buffers.count(
            self.kernel, base.physmem, machine.span, machine.tunables
        )

    def without_arena(self, kmem: int) -> None:
        """Up to 9.x: kernel_map itself, first fit (vm_mem_init to vm_ksubmap_init)."""
        chunks, heads = self._early()
        self._pv(heads, chunks)
        step = self.machine.superpage if self.kernel.aligned else PAGE
        self._suballoc("kmem_map", kmem, EARLY, why="vm.kmem_size", step=step)
        self._tables()
        step = self.machine.superpage if self.kernel.aligned_buffers else PAGE
        clean = self.buffers.clean_bytes
        self._suballoc("clean_map", clean, MIDDLE, why=self._buffer_why(), step=step)
        self._last(kmem)

    def with_arena(self, kmem: int) -> None:
        """10.x and 11.x: kernel_arena, whose refusals go mostly unnoticed."""
        chunks, heads = self._early()
        for name, size in (("zero region", heads), ("pv chunks", chunks)):
            self.arena.take(name, size)
        if kmem == 0:
            raise _Broken(self._trap("kmem arena", 0))
        try:
            self.arena.take("kmem arena", kmem, why="vm.kmem_size")
        except NoRoom:
            raise _Broken(self._trap("kmem arena", kmem)) from None
        nodes = radix_nodes.radix_bytes(self.base.pages)
        try:
            self.arena.take("radix nodes", nodes, why="one for each page of RAM")
        except NoRoom as full:
            message = "panic: vm_radix_reserve_kva: unable to reserve KVA"
            raise _Broken(
                Failure("radix nodes", nodes, full.gap, message, EARLY)
            ) from None
        for name, size in (
            ("buffer headers", self.buffers.header_bytes(self.kernel, 0)),
            ("buffer KVA", self.buffers.clean_bytes),
        ):
            try:
                self.arena.take(name, size, why=self._buffer_why())
            except NoRoom:
                self.missing.append(name)
        self._last(kmem)

    def after(self) -> None:
        """What follows and cannot end the boot: sf_bufs go missing in silence.

        Map entries, first stacks and device windows come before sf_buf_init; how
        much they take together was measured, not their single places.
        """
        take = self.arena.take if self.kernel.arena else self.map.take
        for name, size, why in (
            ("map entries, stacks", self.kernel.later_bytes, "measured, bare kernel"),
            ("sf_bufs", self.sf_bytes(), "sendfile windows"),
        ):
            try:
                take(name, size, why=why)
            except NoRoom:
                self.missing.append(name)

    def sf_bytes(self) -> int:
        """Bytes of the sf_buf area."""
        return autotune.sf_bufs(self.base.physmem, self.machine.tunables)

    def _early(self) -> tuple[int, int]:
        chunks = pv_chunks.chunk_bytes(
            self.base.pages, self.base.processes, self.machine.tunables
        )
        heads = pv_chunks.head_table_bytes(self.machine.top, self.machine.superpage)
        return chunks, round_up(heads, PAGE) + self.kernel.zero_region

    def _pv(self, heads: int, chunks: int) -> None:
        try:
            self.map.take("pv tables", heads, why="heads, and zeros from 9.2 on")
            self.map.take("pv chunks", chunks, why="which process maps a page")
        except NoRoom as full:
            message = "panic: pmap_init: not enough kvm for pv chunks"
            raise _Broken(
                Failure("pv chunks", chunks, full.gap, message, EARLY)
            ) from None

    def _tables(self) -> None:
        callouts = autotune.callouts(
            self.base.physmem,
            self.machine.tunables,
            files_by_ram=self.kernel.transient or not self.kernel.pipes_from_kmem,
        )
        size = self.buffers.header_bytes(self.kernel, callouts)
        try:
            self.map.take("buffer headers", size, why="headers and callouts")
        except NoRoom as full:
            message = "panic: startup: no room for tables"
            raise _Broken(
                Failure("buffer headers", size, full.gap, message, MIDDLE)
            ) from None

    def _last(self, kmem: int) -> None:
        tunables = self.machine.tunables
        self._suballoc(
            "exec_map",
            submaps.exec_bytes(self.kernel, tunables),
            MIDDLE,
            why="arguments of 16 programs at a time",
        )
        pipes = submaps.pipe_bytes(
            self.kernel,
            kmem,
            self.base.physmem,
            span=self.machine.span,
            superpage=self.machine.superpage,
            tunables=tunables,
        )
        rule = "vm.kmem_size/20" if self.kernel.pipes_from_kmem else "RAM/64"
        self._suballoc("pipe_map", pipes, MIDDLE, why=rule)

    def _suballoc(
        self, name: str, size: int, where: str, *, why: str, step: int = PAGE
    ) -> None:
        if size == 0:
            # vm_map_insert refuses an empty range: start >= end.
            raise _Broken(
                self._panic(name, 0, NoRoom(1, self.map.largest_gap()), where)
            )
        try:
            self.map.take(name, size, why=why, step=step)
        except NoRoom as full:
            raise _Broken(self._panic(name, size, full, where)) from None

    def _panic(self, name: str, size: int, full: NoRoom, where: str) -> Failure:
        message = f"panic: kmem_suballoc: bad status return of {full.status}"
        if self.kernel.source == "7.0c":
            message = (
                f"kmem_suballoc: bad status return of {full.status}."
                " / panic: kmem_suballoc"
            )
        return Failure(name, size, full.gap, message, where)

    def _trap(self, name: str, size: int) -> Failure:
        gap = self.map.largest_gap()
        message = "Fatal trap 12 / panic: page fault"
        return Failure(name, size, gap, message, LATE)

    def _buffer_why(self) -> str:
        counts = self.buffers
        text = f"{counts.buffers} x 16 KiB + {counts.transfers} x 128 KiB"
        return text + (f" + {counts.transient} x 128 KiB" if counts.transient else "")


def past_boot(layout: Layout) -> bool:
    """Return whether the kernel gets through with its buffers where they belong."""
    return layout.failure is None and "buffer KVA" not in layout.missing


def largest(machine: Machine, base: Ground | None = None) -> int:
    """Return the largest vm.kmem_size, in whole MiB, that gets past the boot.

    Bisection is right because "gets past the boot" (with its buffers in place) is
    monotone in the request: a larger one only moves everything after it upwards.
    """
    base = base or ground(machine)
    low, high = 0, machine.span // MIB + 1
    while high - low > 1:
        middle = (low + high) // 2
        if past_boot(lay_out(machine, middle * MIB, base)):
            low = middle
        else:
            high = middle
    return low * MIB
