"""First fit in a kernel map, and the arena that FreeBSD 10 and 11 put over it.

Pure arithmetic on addresses. `KernelMap.take` follows vm_map_find and
vm_map_findspace with pmap_align_superpage (sys/vm/vm_map.c and
sys/i386/i386/pmap.c of 8.0, of Feb 2011, 9.3 and 10.4); `Arena.take` follows
vmem_xalloc with kva_import (sys/kern/subr_vmem.c, sys/vm/vm_init.c of 10.4).
"""

from __future__ import annotations

from standfast.tune.model import PAGE, Reservation

# sys/vm/vm_param.h: what kmem_suballoc prints when vm_map_find fails.
KERN_INVALID_ADDRESS = 1
KERN_NO_SPACE = 3


def round_up(value: int, step: int) -> int:
    """Return the next multiple of ``step``."""
    return -(-value // step) * step


class NoRoom(Exception):  # noqa: N818 - an answer of the map, not an error of ours
    """The map had no place.

    Attributes:
        status: what vm_map_find returns (3 no gap is large enough; 1 a gap is
            large enough but not once the address has been aligned).
        gap: start and size of the largest gap.
    """

    def __init__(self, status: int, gap: tuple[int, int]) -> None:
        super().__init__(status, gap)
        self.status = status
        self.gap = gap


class KernelMap:
    """Addresses from ``low`` up to ``high``, handed out first fit.

    Args:
        low: the first address that is free.
        high: the first address after the map.
        superpage: bytes of a large page, to which some requests are aligned.
    """

    def __init__(self, low: int, high: int, *, superpage: int) -> None:
        self.low = low
        self.high = high
        self.superpage = superpage
        self.taken: list[Reservation] = []

    def gaps(self) -> list[tuple[int, int]]:
        """Return start and end of every gap, by address."""
        found = []
        at = self.low
        for piece in sorted(self.taken, key=lambda piece: piece.start):
            if piece.start > at:
                found.append((at, piece.start))
            at = piece.end
        if at < self.high:
            found.append((at, self.high))
        return found

    def largest_gap(self) -> tuple[int, int]:
        """Return start and size of the largest gap; (high, 0) when full."""
        gaps = [(start, end - start) for start, end in self.gaps()]
        return max(gaps, key=lambda gap: gap[1], default=(self.high, 0))

    def take(self, name: str, size: int, *, why: str = "", step: int = PAGE) -> int:
        """Reserve ``size`` bytes and return their address.

        Args:
            name: what it is for.
            size: bytes; rounded up to pages.
            why: how the size came about.
            step: the superpage size for an aligned request, else a page. As in
                the kernel, a request smaller than the step is not aligned.

        Raises:
            NoRoom: no gap would do.
        """
        size = round_up(size, PAGE)
        at = self._find(size, step if size >= step else PAGE)
        self.taken.append(Reservation(name, at, size, why))
        return at

    def _find(self, size: int, step: int) -> int:
        for start, end in self.gaps():
            if end - start < size:
                continue
            at = round_up(start, step)
            if at + size <= end:
                return at
            if at + size > self.high:
                # vm_map_insert refuses an end beyond the map, and vm_map_find
                # goes on only after "no space", so this is where it gives up.
                raise NoRoom(KERN_INVALID_ADDRESS, self.largest_gap())
        raise NoRoom(KERN_NO_SPACE, self.largest_gap())


class Arena:
    """kernel_arena of 10.x and 11.x: best fit over spans imported from the map.

    Every import is rounded up to, and aligned at, a superpage; what is left of a
    span serves later, smaller requests.
    """

    def __init__(self, kernel_map: KernelMap) -> None:
        self._map = kernel_map
        self._free: list[tuple[int, int]] = []

    def take(self, name: str, size: int, *, why: str = "") -> int:
        """Reserve ``size`` bytes and return their address.

        Raises:
            NoRoom: neither a free piece nor a new span would do.
        """
        size = round_up(size, PAGE)
        fitting = [piece for piece in self._free if piece[1] >= size]
        if fitting:
            best = min(fitting, key=lambda piece: (piece[1], piece[0]))
            self._free.remove(best)
            self._keep(best[0] + size, best[1] - size)
            return best[0]
        span = round_up(size, self._map.superpage)
        at = self._map.take(name, span, why=why, step=self._map.superpage)
        self._keep(at + size, span - size)
        return at

    def _keep(self, start: int, size: int) -> None:
        if size:
            self._free.append((start, size))
