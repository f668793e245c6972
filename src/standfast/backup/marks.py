"""What was sent, remembered on the ZFS side: bookmarks or holds, and a property.

The property says which archive of which vault ends with which snapshot; it counts
where it was set (source ``local``), not where it was inherited or received. The
bookmark keeps the place to start from when the snapshot is gone; where zfs has no
bookmarks, a hold keeps the snapshot itself, the newest only. A mark is made before
the send and counts once the property names it, which is after the commit; so a mark
that no property names is one that a dead send left.

=====================================  ==============================================
``#standfast-VAULT8-ARCHIVE``          bookmark; VAULT8: 8 digits of the vault's id
hold ``standfast:VAULT8``              on the newest snapshot sent, without bookmarks
hold ``standfast:VAULT8-tree``         on the newest snapshots of a tree
``standfast:vault-VAULT``              ``1``, ``s=SIGNER``..., ``a=MARK``..., newest
                                       first; MARK: ``GUID:ARCHIVE:SUMS:KIND``, where
                                       KIND is of the letters ``w`` raw, ``L`` large
                                       blocks, ``-`` neither
``standfast:tree-VAULT``               the same for archives of the tree
=====================================  ==============================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.backup.chain import Mark
from standfast.backup.minisign import PublicKey
from standfast.backup.state import COMMITTED
from standfast.errors import CommandError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from standfast.backup.state import Ledger
    from standfast.host import Host
    from standfast.zfs.listing import Dataset, Listing, Point

# ZFS kept user properties to 1,024 bytes until 2012, and zfs-fuse still does.
LONGEST_VALUE = 1000
MOST_MARKS = 6
_MARK = re.compile(r"([0-9]{1,20}):([0-9a-f]{32}):([0-9a-f]{64}):([wL]+|-)")
_BOOKMARK = re.compile(r"#standfast-([0-9a-f]{8})-([0-9a-f]{32})")
_TAG = re.compile(r"standfast:([0-9a-f]{8})(-tree)?")


@dataclass(frozen=True)
class Memory:
    """What is known of one dataset's archives in one vault, newest first.

    Attributes:
        marks: the archives.
        signers: public keys that signed them, as text.
    """

    marks: tuple[Mark, ...] = ()
    signers: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the property's value, as many marks as there is room for."""
        words = ["1", *(f"s={key}" for key in self.signers)]
        for mark in self.marks[:MOST_MARKS]:
            kind = ("w" if mark.raw else "") + ("L" if mark.large else "")
            word = f"a={mark.guid}:{mark.archive}:{mark.sums}:{kind or '-'}"
            if len(" ".join([*words, word])) > LONGEST_VALUE:
                break
            words.append(word)
        return " ".join(words)

    def kept(self) -> tuple[Mark, ...]:
        """Return the marks that the property's value has room for."""
        return parse_memory(self.text()).marks

    def plus(self, mark: Mark, signer: str) -> Memory:
        """Return what is known after one more archive was committed."""
        marks = (mark, *(m for m in self.marks if m.archive != mark.archive))
        signers = (signer, *(s for s in self.signers if s != signer))
        return Memory(marks[:MOST_MARKS], signers[:2])


def parse_memory(text: str) -> Memory:
    """Return what a property says; whatever is not ours in it says nothing."""
    words = text.split(" ")
    if words[0] != "1":
        return Memory()
    marks = [m for w in words if w.startswith("a=") and (m := _parse_mark(w[2:]))]
    signers = [s for w in words if w.startswith("s=") and (s := _parse_signer(w[2:]))]
    return Memory(tuple(marks), tuple(signers))


def _parse_mark(word: str) -> Mark | None:
    match = _MARK.fullmatch(word)
    if match is None:
        return None
    guid, archive, sums, kind = match.groups()
    return Mark(int(guid), archive, sums, raw="w" in kind, large="L" in kind)


def _parse_signer(word: str) -> str:
    try:
        return PublicKey.parse(word).text
    except UsageError:
        return ""


def property_name(vault: str, *, tree: bool) -> str:
    """Return the user property that names archives in a vault."""
    return f"standfast:{'tree' if tree else 'vault'}-{vault}"


def bookmark_name(dataset: str, vault: str, archive: str) -> str:
    """Return the bookmark that an archive's snapshot gets."""
    return f"{dataset}#standfast-{vault[:8]}-{archive}"


def hold_tag(vault: str, *, tree: bool) -> str:
    """Return the tag of our holds for a vault."""
    return f"standfast:{vault[:8]}" + ("-tree" if tree else "")


def remembered(dataset: Dataset, vault: str, ledger: Ledger, *, tree: bool) -> Memory:
    """Return what the pool and this machine's ledger know together.

    The ledger knows of what was committed just before this machine died; the pool
    of what was sent before it was set up anew.
    """
    here = parse_memory(dataset.properties.get(property_name(vault, tree=tree), ""))
    known = {mark.archive for mark in here.marks}
    sent = [
        Mark(int(s.guid), s.archive, s.sums, "w" in s.kind, "L" in s.kind)
        for s in ledger.by_dataset.get(str(dataset.guid), ())
        if s.state == COMMITTED and ("R" in s.kind) == tree and s.archive not in known
    ]
    return Memory((*sent, *here.marks), here.signers)


@dataclass(frozen=True)
class Site:
    """Where marks are made.

    Attributes:
        host: the machine with the pool.
        vault: the vault's id.
        tree: whether the archives are of a whole tree.
        bookmarks: whether zfs has bookmarks.
    """

    host: Host
    vault: str
    tree: bool
    bookmarks: bool

    @property
    def tag(self) -> str:
        """The tag of our holds."""
        return hold_tag(self.vault, tree=self.tree)


def protect(site: Site, target: Point, archive: str) -> None:
    """Make the tentative mark of a send that is about to begin.

    A tree needs the snapshots themselves as a base, so they are held; so is a
    single snapshot where the pool takes no bookmark.

    Raises:
        CommandError: neither can be made.
    """
    if not site.tree and site.bookmarks:
        name = bookmark_name(target.dataset, site.vault, archive)
        made = site.host.run(["zfs", "bookmark", target.name, name], ok=range(256))
        if made.code == 0 or "exists" in made.stderr:
            return
    words = ["hold", *(["-r"] if site.tree else []), site.tag, target.name]
    held = site.host.run(["zfs", *words], ok=range(256))
    if held.code != 0 and "already exists" not in held.stderr:
        raise CommandError(held.complaint())


def promote(site: Site, dataset: Dataset, memory: Memory) -> None:
    """Make marks count: the property names them from now on.

    Raises:
        CommandError: zfs refuses.
    """
    key = property_name(site.vault, tree=site.tree)
    argv = ["zfs", "set", f"{key}={memory.text()}", dataset.name]
    site.host.run(argv, timeout=120)


@dataclass(frozen=True)
class Tidy:
    """What to take away.

    Attributes:
        bookmarks: names of bookmarks to destroy.
        holds: (snapshot, tag) pairs to release.
    """

    bookmarks: tuple[str, ...] = ()
    holds: tuple[tuple[str, str], ...] = ()


def plan_tidy(
    site: Site,
    datasets: Sequence[Dataset],
    memory: Memory,
    busy: Iterable[str],
    keep: frozenset[int],
) -> Tidy:
    """Decide which of our marks go: those of dead sends, and those outgrown.

    Args:
        site: where; its holds are listed, the rest is pure.
        datasets: the dataset, and for a tree all below it.
        memory: the archives that the vault has.
        busy: archives being sent, or to be gone on with; their marks stay.
        keep: GUIDs of snapshots whose holds stay, too.

    Raises:
        CommandError: zfs cannot list its holds.
    """
    top = datasets[0]
    named = {mark.archive for mark in memory.kept()} | set(busy)
    kept = set(keep)
    present = {point.guid: point for point in top.snapshots}
    newest = next((m.guid for m in memory.marks if m.guid in present), None)
    if newest is not None:
        kept.add(newest)
    names = {present[guid].short for guid in kept if guid in present}
    spare = [
        point
        for dataset in datasets
        for point in dataset.snapshots
        if point.holds
        and (point.short not in names if site.tree else point.guid not in kept)
    ]
    holds = [(p.name, site.tag) for p in holders(site.host, spare, site.tag)]
    return Tidy(_spare_bookmarks(site, top, named), tuple(holds))


def _spare_bookmarks(site: Site, dataset: Dataset, named: set[str]) -> tuple[str, ...]:
    """Return our bookmarks for this vault of archives that nobody names."""
    if site.tree:
        return ()
    matches = [(p.name, _BOOKMARK.fullmatch(p.short)) for p in dataset.points]
    return tuple(
        name
        for name, match in matches
        if match and match.group(1) == site.vault[:8] and match.group(2) not in named
    )


def tidy(site: Site, plan: Tidy) -> None:
    """Take away what was planned; what is gone by now is no matter.

    Raises:
        CommandError: zfs refuses.
    """
    for name in plan.bookmarks:
        done = site.host.run(["zfs", "destroy", name], ok=range(256))
        if done.code != 0 and "does not exist" not in done.stderr:
            raise CommandError(done.complaint())
    for name, tag in plan.holds:
        done = site.host.run(["zfs", "release", tag, name], ok=range(256))
        gone = "does not exist" in done.stderr or "no such tag" in done.stderr
        if done.code != 0 and not gone:
            raise CommandError(done.complaint())


def holders(host: Host, points: Sequence[Point], tag: str) -> list[Point]:
    """Return those snapshots that carry a hold of that tag.

    Raises:
        CommandError: zfs cannot be asked.
    """
    found = holds_of(host, points)
    if found is not None:
        return [point for point, its in found if its == tag]
    return [point for point in points if _carries(host, point, tag)]


def _carries(host: Host, point: Point, tag: str) -> bool:
    """Tell whether a hold is there by trying to make it, where none can be listed."""
    tried = host.run(["zfs", "hold", tag, point.name], ok=range(256))
    if tried.code == 0:
        host.run(["zfs", "release", tag, point.name])
    return "already exists" in tried.stderr


# How many names one zfs command is given: well below the 128 KiB that a single
# argument list may have on the smallest of systems.
_NAMES_AT_ONCE = 200


def holds_of(host: Host, points: Sequence[Point]) -> list[tuple[Point, str]] | None:
    """Return (snapshot, tag) for every hold on some snapshots.

    None where this zfs cannot list them: zfs-fuse's ``zfs holds`` is a script of
    which Debian's package lacks a part.

    Raises:
        CommandError: zfs can list them, and fails.
    """
    by_name = {point.name: point for point in points}
    names = list(by_name)
    found: list[tuple[Point, str]] = []
    for start in range(0, len(names), _NAMES_AT_ONCE):
        chunk = names[start : start + _NAMES_AT_ONCE]
        result = host.run(["zfs", "holds", *chunk], ok=range(256), timeout=120)
        if "internal error" in result.stdout.decode(errors="replace"):
            return None
        if result.code != 0:
            raise CommandError(result.complaint())
        for line in result.stdout.decode(errors="replace").splitlines():
            found += _hold(line, by_name)
    return found


def _hold(line: str, by_name: dict[str, Point]) -> list[tuple[Point, str]]:
    """Read ``NAME  TAG  TIMESTAMP``; names may have single spaces inside."""
    for split in re.finditer(r"\s+", line):
        name, rest = line[: split.start()], line[split.end() :]
        if name in by_name and rest:
            return [(by_name[name], rest.split()[0])]
    return []


@dataclass(frozen=True)
class Found:
    """One of our marks, as ``marks list`` shows it.

    Attributes:
        kind: ``bookmark``, ``hold`` or ``property``.
        name: of the bookmark, the held snapshot or the dataset.
        vault: 8 digits of the vault's id, or all 32 for a property.
        archive: the archive's id where the mark names one.
        guid: the snapshot's, where the mark names one.
        tag: the hold's tag or the property's name.
    """

    kind: str
    name: str
    vault: str
    archive: str = ""
    guid: int = 0
    tag: str = ""


def find_marks(host: Host, listing: Listing, vaults: Sequence[str]) -> list[Found]:
    """Return the bookmarks and holds of ours in a listing.

    Args:
        host: where the pools are.
        listing: what to look through.
        vaults: ids of vaults whose holds to try where holds cannot be listed;
            where they can, those of all vaults are found.

    Raises:
        CommandError: zfs cannot list its holds.
    """
    points = [p for d in listing.datasets.values() for p in d.points]
    found = []
    for point in points:
        match = _BOOKMARK.fullmatch(point.short)
        if match:
            vault, archive = match.groups()
            found.append(Found("bookmark", point.name, vault, archive, point.guid))
    for point, tag in _our_holds(host, [p for p in points if p.holds], vaults):
        match = _TAG.fullmatch(tag)
        if match:
            vault = match.group(1)
            found.append(Found("hold", point.name, vault, "", point.guid, tag))
    return found


def _our_holds(
    host: Host, points: Sequence[Point], vaults: Sequence[str]
) -> list[tuple[Point, str]]:
    listed = holds_of(host, points)
    if listed is not None:
        return listed
    tags = [hold_tag(vault, tree=tree) for vault in vaults for tree in (False, True)]
    return [(p, tag) for p in points for tag in tags if _carries(host, p, tag)]


def find_properties(host: Host, roots: Sequence[str]) -> list[Found]:
    """Return every property of ours that is set on datasets below some roots.

    Raises:
        CommandError: zfs cannot be asked.
    """
    fields = "name,property,value,source"
    argv = ["zfs", "get", "-rHp", "-s", "local", "-o", fields, "all", *roots]
    text = host.run(argv, timeout=600).stdout.decode(errors="replace")
    found = []
    for line in text.splitlines():
        name, key, value, *_ = [*line.split("\t"), "", "", ""]
        match = re.fullmatch(r"standfast:(?:vault|tree)-([0-9a-f]{32})", key)
        if match and "@" not in name:
            marks = parse_memory(value).marks or (Mark(0, "", ""),)
            found += [
                Found("property", name, match.group(1), m.archive, m.guid, key)
                for m in marks
            ]
    return found


def release(host: Host, marks: Iterable[Found]) -> None:
    """Take marks away: what they said is forgotten.

    Raises:
        CommandError: zfs refuses.
    """
    properties = {(m.name, m.tag) for m in marks if m.kind == "property"}
    plan = Tidy(
        tuple(m.name for m in marks if m.kind == "bookmark"),
        tuple((m.name, m.tag) for m in marks if m.kind == "hold"),
    )
    tidy(Site(host, "", tree=False, bookmarks=True), plan)
    for name, key in sorted(properties):
        host.run(["zfs", "inherit", key, name], timeout=120)
