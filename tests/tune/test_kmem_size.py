"""kmeminit's sizes against what kernels printed and what their headers work out to."""

from __future__ import annotations

from standfast.tune import generations, layout
from standfast.tune.model import GIB, MIB
from standfast.tune.release import Release, parse_release
from standfast.tune.rules import arc_freebsd, arc_openzfs, kmem_size, kva_span, prefetch


def release(text: str) -> Release:
    found = parse_release(text)
    assert found is not None
    return found


def pages_of(kernel: generations.Generation, ram: int) -> int:
    machine = layout.Machine(
        kernel, "i386", 512, 3 * MIB, ram - 128 * 1024, smp=False, tunables={}
    )
    return layout.ground(machine).pages


def test_the_two_fifths_of_9_1_and_later() -> None:
    """412 MiB at 1 GiB of address space, 820 MiB at KVA_PAGES=512."""
    for pages, size in ((256, 412), (512, 820)):
        assert kmem_size.most(release("9.3"), "i386", pages) == size * MIB


def test_defaults_that_a_probe_printed() -> None:
    """Unset at 2 GiB: 320 MiB in Feb 2011; RAM/3 = 668.98 MB in 9.3, to 0.1 MB."""
    old = kmem_size.size(
        release("9.0-CURRENT"),
        "i386",
        pages=pages_of(generations.G9C, 2 * GIB),
        kva_pages=512,
        maxusers=384,
        tunables={},
    )
    new = kmem_size.size(
        release("9.3"),
        "i386",
        pages=pages_of(generations.G93, 2 * GIB),
        kva_pages=512,
        maxusers=384,
        tunables={},
    )
    assert old.size == 320 * MIB
    assert round(new.size / MIB, 1) == 669.0


def test_an_explicit_size_is_cut_to_twice_ram() -> None:
    """1536M on 512 MB of RAM was printed as 1020048 KB, twice the pages left."""
    found = kmem_size.size(
        release("9.0-CURRENT"),
        "i386",
        pages=pages_of(generations.G9C, 512 * MIB),
        kva_pages=512,
        maxusers=255,
        tunables={"vm.kmem_size": 1536 * MIB},
    )
    assert found.clamped
    assert abs(found.size // 1024 - 1020048) <= 64


def test_kmem_size_max_does_not_cap_an_explicit_size() -> None:
    """512M with the default maximum of 320 MiB was taken as 512 MiB."""
    found = kmem_size.size(
        release("9.0-CURRENT"),
        "i386",
        pages=500000,
        kva_pages=512,
        maxusers=384,
        tunables={"vm.kmem_size": 512 * MIB},
    )
    assert found.size == 512 * MIB


def test_arc_defaults_as_a_host_printed_them() -> None:
    """kmem 1017532416 gives arc_max 635957760 and arc_min 79494720 (10.x)."""
    arc = arc_freebsd.limits(release("10.1"), 1017532416, GIB, {})
    assert (arc.largest, arc.smallest) == (635957760, 79494720)


def test_openzfs_defaults_and_the_order_of_tests() -> None:
    """Half of RAM to 2.2, RAM less 1 GiB from 2.3; a tie is ignored."""
    ram = 64 * GIB
    for version, size in (
        ("2.2.4", ram // 2),
        ("2.3.0", 63 * GIB),
        ("0.8.3", ram // 2),
    ):
        found = arc_openzfs.limits(release(version), ram, {}, freebsd=False)
        assert found.largest == size
    for version, ignored in (("0.8.3", ("arc_max",)), ("2.1.1", ())):
        found = arc_openzfs.limits(
            release(version), ram, {"arc_max": ram // 32}, freebsd=False
        )
        assert found.ignored == ignored


def test_prefetch_is_off_on_i386_and_below_4_gib() -> None:
    """FreeBSD's own ZFS; a tunable decides; OpenZFS has no such test."""
    assert not prefetch.is_on("i386", 8 * GIB, {}, own=True)
    assert not prefetch.is_on("amd64", 3 * GIB, {}, own=True)
    assert prefetch.is_on("amd64", 4 * GIB, {}, own=True)
    assert prefetch.is_on("i386", GIB, {"vfs.zfs.prefetch_disable": 0}, own=True)
    assert prefetch.is_on("amd64", GIB, {}, own=False)


def test_user_space_is_what_kva_pages_leaves() -> None:
    """KVA_PAGES=512 leaves 2044 MiB, the default 3068 MiB."""
    assert kva_span.user_space("i386", 512) == 2044 * MIB
    assert kva_span.user_space("i386", 256) == 3068 * MIB
