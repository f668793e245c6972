"""Restores that go on inside of an archive, which only ``zfs receive -s`` can."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from conftest import Made, Standfast, incompressible
from faults import with_zfs

if TYPE_CHECKING:
    from openzfs.conftest import Modern

pytestmark = pytest.mark.openzfs

TEXT = b"a line that compresses well, and is long enough to be worth it\n" * 4000


def cut(standfast: Standfast, count: int) -> Standfast:
    """A zfs whose receive gets no more than so many bytes."""
    return with_zfs(standfast, "receive", f'head -c {count} | "$REAL" "$@"')


@pytest.mark.parametrize("flags", [[], ["--send-flag=-Lce"]])
def test_a_restore_goes_on_inside_of_an_archive(
    standfast: Standfast, vault: Made, modern: Modern, flags: list[str]
) -> None:
    """What zfs kept of a cut receive is completed from the stored stream alone.

    openzfs/zfs#8658, #18022: no sender is asked, and no token leads to one.
    """
    label = f"inside{len(flags)}"
    dataset = modern.create(label, "compression=lz4", "recordsize=128k")
    files = {f"d{n}/dense": incompressible(700_000, n) for n in range(4)}
    files |= {f"d{n}/text": TEXT for n in range(4)}
    modern.write(label, files)
    modern.pool.zfs("snapshot", f"{dataset}@s1")
    standfast("backup", "send", *flags, f"{dataset}@s1", vault.path)
    more = {"d1/more": incompressible(1_500_000, 9), "d2/text": TEXT[::-1]}
    modern.write(label, more)
    modern.pool.zfs("snapshot", f"{dataset}@s2")
    standfast("backup", "send", *flags, f"{dataset}@s2", vault.path)
    target = modern.name(f"{label}-back")
    first, second = (
        ("backup", "restore", vault.path, f"{dataset}@{name}", target, "-i", vault.key,
         "--receive-flag=-s")
        for name in ("s1", "s2")
    )  # fmt: skip
    for words, count in ((first, 1_700_000), (second, 1_200_000)):
        cut(standfast, count)(*words, ok=1)
        assert "-" != modern.get("receive_resume_token", target)
        assert "went on inside of" in standfast(*words).err
    assert modern.get("guid", f"{dataset}@s1") == modern.get("guid", f"{target}@s1")
    assert files | more == modern.pool.tree(f"{label}-back")
    assert modern.get("guid", f"{dataset}@s2") == modern.get("guid", f"{target}@s2")


def test_without_the_flag_it_is_begun_anew(
    standfast: Standfast, vault: Made, modern: Modern
) -> None:
    """Who does not ask for -s again has the part given up."""
    dataset = modern.create("anew")
    modern.write("anew", {"dense": incompressible(2_000_000, 3)})
    modern.pool.zfs("snapshot", f"{dataset}@s1")
    standfast("backup", "send", f"{dataset}@s1", vault.path)
    target = modern.name("anew-back")
    words = ("backup", "restore", vault.path, f"{dataset}@s1", target, "-i", vault.key)
    cut(standfast, 1_000_000)(*words, "--receive-flag=-s", ok=1)
    ran = standfast(*words)
    assert "gives up what was kept" in ran.err
    assert {"dense": incompressible(2_000_000, 3)} == modern.pool.tree("anew-back")
