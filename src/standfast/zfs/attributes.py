"""What a file system knows of each file: znodes and system attributes.

Two forms: ``znode_phys`` in the bonus of file systems up to version 4
(sys/zfs_znode.h), and system attributes (SA, sys/sa_impl.h and zfs_sa.c) in the bonus
and a spill block from version 5 on. An SA's place depends on a layout and a registry
that each file system keeps for itself in ZAPs; nothing is assumed about their numbers.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from struct import Struct, error, unpack_from
from typing import TYPE_CHECKING, Literal

from standfast.errors import StreamError
from standfast.zfs.nvlist import parse_nvlist

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Order = Literal["<", ">"]

ZNODE_BONUS, SA_BONUS = 17, 44
ZNODE_BYTES = 264
# Longer targets of symbolic links lie in the file's first block.
ZNODE_LINK = 56

_SA_MAGIC = 0x2F505A
_SA_HEADER = 6
_SECOND = 1_000_000_000


@dataclass(frozen=True)
class Attributes:
    """One file's attributes.

    Times are nanoseconds since 1970; ids are as they stand in the stream, where a
    value of 2^32 and more names an entry of a table of domains (SMB).

    Attributes:
        mode: type and permissions, as in stat(2).
        size: bytes; of a folder, its entries and the two that every folder has.
        generation: the transaction group in which the object was made.
        parent: object number of a folder that holds it.
        links: how many names it has.
        uid: owner.
        gid: group.
        atime: last access.
        mtime: last change of contents.
        ctime: last change at all.
        crtime: creation.
        rdev: device number as the sender's system writes it.
        flags: ZFS_* bits, such as immutable (0x20 << 32 ...).
        xattr_folder: object number of the hidden folder of extended attributes, or 0.
        link: target of a symbolic link if it lies here; else None.
        xattrs: extended attributes that lie with the file itself.
        acl: NFSv4 entries as they lie there, for those who want them.
    """

    mode: int
    size: int
    generation: int
    parent: int
    links: int
    uid: int
    gid: int
    atime: int
    mtime: int
    ctime: int
    crtime: int
    rdev: int = 0
    flags: int = 0
    xattr_folder: int = 0
    link: bytes | None = None
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    acl: bytes = b""

    @property
    def kind(self) -> int:
        """The file type bits, as in stat(2)."""
        return stat.S_IFMT(self.mode)


def _damaged(what: str) -> StreamError:
    return StreamError(f"a file's attributes are damaged: {what}")


def parse_znode(bonus: bytes, order: Order) -> Attributes:
    """Return the attributes in a ``znode_phys``.

    Raises:
        StreamError: it is too short.
    """
    if len(bonus) < ZNODE_BYTES:
        raise _damaged(f"a znode of {len(bonus)} bytes")
    fields = unpack_from(order + "19Q", bonus)
    atime, mtime, ctime, crtime = (
        _time(fields[i], fields[i + 1]) for i in range(0, 8, 2)
    )
    gen, mode, size, parent, links, xattr, rdev, flags, uid, gid, _zap = fields[8:]
    link = None
    if stat.S_ISLNK(mode & 0xFFFF) and size + ZNODE_BYTES <= len(bonus):
        link = bonus[ZNODE_BYTES : ZNODE_BYTES + size]
    return Attributes(
        mode=mode & 0xFFFF,
        size=size,
        generation=gen,
        parent=parent,
        links=links,
        uid=uid,
        gid=gid,
        atime=atime,
        mtime=mtime,
        ctime=ctime,
        crtime=crtime,
        rdev=rdev,
        flags=flags,
        xattr_folder=xattr,
        link=link,
    )


def _time(seconds: int, nanoseconds: int) -> int:
    """Return nanoseconds since 1970; the seconds are signed."""
    if seconds >= 1 << 63:
        seconds -= 1 << 64
    return seconds * _SECOND + min(nanoseconds, _SECOND - 1)


@dataclass(frozen=True)
class SaTable:
    """How a file system lays out its system attributes.

    Attributes:
        names: attribute number -> (name, bytes; 0 if they vary).
        layouts: layout number -> attribute numbers in order.
    """

    names: Mapping[int, tuple[str, int]]
    layouts: Mapping[int, Sequence[int]]


def sa_registry_value(value: int) -> tuple[int, int]:
    """Return (number, bytes) of an attribute as the registry holds them."""
    return value & 0xFFFF, value >> 24 & 0xFFFF


def parse_sa(bonus: bytes, spill: bytes, table: SaTable, order: Order) -> Attributes:
    """Return the attributes in a bonus and its spill block.

    Raises:
        StreamError: they are damaged, or the layout is not in the table.
    """
    found: dict[str, bytes] = {}
    for part in (bonus, spill):
        found |= _sa_fields(part, table, order)
    if "ZPL_MODE" not in found:
        raise _damaged("no mode")

    def number(name: str) -> int:
        raw = found.get("ZPL_" + name, b"")
        return int(unpack_from(order + "Q", raw)[0]) if len(raw) >= 8 else 0  # noqa: PLR2004

    def time(name: str) -> int:
        raw = found.get("ZPL_" + name, b"")
        return _time(*unpack_from(order + "QQ", raw)) if len(raw) >= 16 else 0  # noqa: PLR2004

    return Attributes(
        mode=number("MODE") & 0xFFFF,
        size=number("SIZE"),
        generation=number("GEN"),
        parent=number("PARENT"),
        links=number("LINKS"),
        uid=number("UID"),
        gid=number("GID"),
        atime=time("ATIME"),
        mtime=time("MTIME"),
        ctime=time("CTIME"),
        crtime=time("CRTIME"),
        rdev=number("RDEV"),
        flags=number("FLAGS"),
        xattr_folder=number("XATTR"),
        link=found.get("ZPL_SYMLINK"),
        xattrs=_xattrs(found.get("ZPL_DXATTR", b"")),
        acl=found.get("ZPL_DACL_ACES", b""),
    )


def _sa_fields(part: bytes, table: SaTable, order: Order) -> dict[str, bytes]:
    """Walk one SA area by its layout.

    The header is a magic number, 10 bits of layout and 6 bits of its own size in
    words of 8 bytes, and lengths of those attributes that vary, in order.
    """
    if len(part) < 8 or not any(part[:4]):  # noqa: PLR2004 - nothing is there
        return {}
    magic, info = unpack_from(order + "IH", part)
    if magic != _SA_MAGIC:
        raise _damaged(f"magic number {magic:#x}")
    layout, at = info & 0x3FF, (info >> 10) * 8
    if layout not in table.layouts:
        raise _damaged(f"layout {layout} is not registered")
    lengths = iter(Struct(order + "H").iter_unpack(_even(part[_SA_HEADER:at])))
    found: dict[str, bytes] = {}
    for attribute in table.layouts[layout]:
        name, length = table.names.get(attribute, ("", -1))
        if length < 0:
            raise _damaged(f"attribute {attribute} is not registered")
        if length == 0:
            (length,) = next(lengths, (0,))
        if at + length > len(part):
            raise _damaged(f"{name} lies beyond the end")
        found[name] = part[at : at + length]
        at = at + length + 7 & ~7
    return found


def _even(data: bytes) -> bytes:
    return data[: len(data) & ~1]


def _xattrs(packed: bytes) -> dict[str, bytes]:
    """Return the extended attributes in a packed list (xattr=sa)."""
    if not packed.strip(b"\0"):
        return {}
    try:
        pairs = parse_nvlist(packed)
    except (StreamError, error) as fault:
        raise _damaged(f"extended attributes: {fault}") from None
    return {
        name: bytes(value) for name, value in pairs.items() if isinstance(value, bytes)
    }
