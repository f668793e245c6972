"""The i386 layout against kernels that were really booted.

Sizes in the first test were printed by a probe inside those kernels (RAM 2 GiB,
KVA_PAGES=512, vm.kmem_size 1536M), in KiB. The trials lie beside the checkout.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.tune import generations, layout
from standfast.tune.model import KIB, MIB, Layout

TRIALS = Path(__file__).parents[3] / "shared" / "data" / "kmem_boots.jsonl"
KERNELS = {
    "8.0": generations.G80,
    "9.0": generations.G9C,
    "9.3": generations.G93,
    "10.4": generations.G104,
}
# "visible_bytes" of the same RAM label, for trials that panicked before printing it.
VISIBLE = {1024: 1073610752, 2048: 2147352576, 3072: 3221094400, 3583: 3756916736}


def machine(kernel: generations.Generation, **given: Any) -> layout.Machine:
    facts: dict[str, Any] = {
        "arch": "i386",
        "kva_pages": 512,
        "image": 3 * MIB,
        "top": 2147352576,
        "smp": False,
        "tunables": {},
    }
    return layout.Machine(kernel, **(facts | given))


def sizes(placed: Layout) -> dict[str, int]:
    return {piece.name: piece.size // KIB for piece in placed.reservations}


@pytest.mark.parametrize(
    ("kernel", "array", "chunks", "headers", "clean", "exec_map", "pipe"),
    [
        ("8.0", 12704, 24656, 5120, 237568, 4288, 78640),
        ("9.0", 10808, 24656, 5172, 237568, 4160, 78640),
        ("9.3", 19968, 24656, 2864, 148272, 4160, 32692),
    ],
)
def test_sizes_are_what_a_probe_in_the_kernel_printed(
    kernel: str,
    array: int,
    chunks: int,
    headers: int,
    clean: int,
    exec_map: int,
    pipe: int,
) -> None:
    """Each reservation has the size that the booted kernel itself printed."""
    placed = layout.lay_out(machine(KERNELS[kernel]), 1536 * MIB)
    found = sizes(placed)
    starts = {piece.name: piece.start // KIB for piece in placed.reservations}
    assert starts["page array"] == array
    assert found["page array"] in {36860, 36864}
    assert (found["pv chunks"], found["buffer headers"]) == (chunks, headers)
    assert (found["clean_map"], found["exec_map"]) == (clean, exec_map)
    assert found["pipe_map"] == pipe


def trials() -> list[dict[str, Any]]:
    if not TRIALS.exists():
        pytest.skip(f"no boot trials beside the checkout: {TRIALS.name}")
    return [json.loads(line) for line in TRIALS.read_text().splitlines()]


def booted(trial: dict[str, Any]) -> Layout:
    tunables = {}
    for text in trial["other_tunables"]:
        name, value = text.split("=")
        tunables[name] = int(value.removesuffix("M")) * MIB
    top = trial["visible_bytes"] or VISIBLE[trial["ram_mib"]]
    one = machine(
        KERNELS[trial["release"]],
        kva_pages=trial["kva_pages"],
        image=int(trial["kernel_image_mib"] * MIB),
        top=top,
        tunables=tunables,
    )
    return layout.lay_out(one, trial["vm.kmem_size_mib"] * MIB)


def test_every_boot_trial_comes_out_as_it_did() -> None:
    """Boots or panics, and with which message, for each kernel that was booted."""
    wrong = []
    for trial in trials():
        failure = booted(trial).failure
        outcome = "boots" if failure is None else "panics"
        message = "" if failure is None else failure.message
        if "page fault" in trial["message"]:
            message = message.split(" / ")[-1]
        if (outcome, message) != (trial["outcome"], trial["message"]):
            wrong.append((trial, outcome, message))
    assert wrong == []


def test_sf_bufs_go_missing_where_the_probe_saw_them_missing() -> None:
    """8.0 and Feb 2011: present up to 1616, gone at 1620; 9.3: 1740 and 1744."""
    for kernel, last in (("8.0", 1616), ("9.0", 1616), ("9.3", 1740)):
        one = machine(KERNELS[kernel], image=int(3.1 * MIB))
        assert layout.lay_out(one, last * MIB).missing == ()
        assert layout.lay_out(one, (last + 4) * MIB).missing == ("sf_bufs",)


def test_a_kernel_of_10_4_boots_on_with_its_buffers_at_nothing() -> None:
    """The false boot: 1792 and 1900 MiB at 2 GiB get past the boot without buffers."""
    one = machine(generations.G104, image=int(3.1 * MIB))
    for size in (1792, 1800, 1900):
        placed = layout.lay_out(one, size * MIB)
        assert "buffer KVA" in placed.missing
        assert not layout.past_boot(placed)


@given(
    st.sampled_from(sorted(KERNELS)),
    st.sampled_from([256, 384, 512, 768]),
    st.integers(3, 40),
    st.integers(512, 3584),
    st.integers(64, 2200),
)
def test_pieces_never_overlap_and_stay_inside(
    kernel: str, pages: int, image: int, ram: int, kmem: int
) -> None:
    """Whatever is asked, reservations are disjoint and within the span."""
    placed = layout.lay_out(
        machine(KERNELS[kernel], kva_pages=pages, image=image * MIB, top=ram * MIB),
        kmem * MIB,
    )
    pieces = sorted(placed.reservations, key=lambda piece: piece.start)
    for before, after in pairwise(pieces):
        assert before.end <= after.start
    assert pieces[0].start >= 0
    assert pieces[-1].end <= placed.span


@given(
    st.sampled_from(["8.0", "9.0", "9.3"]),
    st.sampled_from([256, 512]),
    st.integers(700, 3500),
    st.integers(3, 30),
)
def test_a_larger_image_never_raises_the_limit(
    kernel: str, pages: int, ram: int, image: int
) -> None:
    """More reservations never turn a panic into a boot, up to one superpage."""
    limits = [
        layout.largest(
            machine(KERNELS[kernel], kva_pages=pages, top=ram * MIB, image=size * MIB)
        )
        for size in (image, image + 8)
    ]
    assert limits[1] <= limits[0]


@given(st.sampled_from(["8.0", "9.0"]), st.integers(1100, 3400))
def test_more_ram_never_raises_the_limit_once_buffers_are_full(
    kernel: str, ram: int
) -> None:
    """Above 1 GiB every growth of RAM takes address space, up to one superpage."""
    low, high = (
        layout.largest(machine(KERNELS[kernel], top=size * MIB))
        for size in (ram, ram + 64)
    )
    assert high <= low + 4 * MIB
