"""The objects of a snapshot, replayed from the outlines of a chain of streams.

A chain is a full stream and the increments up to the snapshot. One object at a time
is replayed, by the rules of a receiver (dmu_recv.c of OpenZFS): what its records and
FREEOBJECTS do in each stream, and when a changed OBJECT throws its blocks away. So
looking at one file costs what that file's records cost.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING, Literal

from standfast.errors import StreamError
from standfast.zfs.attributes import SA_BONUS
from standfast.zfs.codecs import INHERIT, OFF, decompress
from standfast.zfs.extents import (
    BY_REFERENCE,
    FOREVER,
    IN_STREAM,
    INLINE,
    SEALED,
    WITHHELD,
    Extents,
    Payload,
)
from standfast.zfs.unsealing import is_raw, part_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from standfast.zfs.extents import Span
    from standfast.zfs.outline import Record, SubstreamOutline
    from standfast.zfs.unsealing import PartKeys, Seal

    # (number of the stream in the chain, offset there, length) -> bytes
    ReadStream = Callable[[int, int, int], bytes]

_OBJECT, _WRITE, _FREE = 1, 3, 4
_BYREF, _SPILL, _EMBEDDED, _REDACT = 6, 7, 8, 10
_HEADER = 312
_PLAIN_FILE = 19
_SPILL_BLOCK = 1 << 3
_HAS_SPILL = 1 << 2
# A dnode's bonus room: 512 bytes a slot less the core and one block pointer; each
# further pointer takes 128 bytes.
_SLOT, _CORE, _POINTER, _MOST_POINTERS = 512, 192, 128, 3
# Every usual layout of system attributes has the generation there.
_SA_GENERATION, _ZNODE_GENERATION = 16, 64
# A block by reference may lead to another such; senders never go deep.
_DEEPEST = 64
_LARGEST_BLOCK = 16 << 20
_KEPT_BLOCKS = 4
_KEPT_OBJECTS = 64


class _Layout:
    """Fields of records in one byte order."""

    def __init__(self, order: str) -> None:
        self.kind = Struct(order + "I")
        # type, bonus type, block size, bonus length; slots and flags
        self.object = Struct(order + "16xIIIIxxBB")
        # offset, logical size, compression, stored size
        self.write = Struct(order + "24xQQ10xB45xQ")
        self.extent = Struct(order + "16xQQ")
        self.byref = Struct(order + "16xQQ8xQQQ")
        # offset, span, compression, logical size, stored size
        self.embedded = Struct(order + "16xQQ8xB7xII")
        self.spill = Struct(order + "16xQ8xBB6xQ")
        self.number = Struct(order + "Q")


_LAYOUTS = {"<": _Layout("<"), ">": _Layout(">")}


@dataclass
class ObjectState:
    """One object as a snapshot has it.

    Attributes:
        number: its own.
        kind: object type, as OBJECT says it.
        bonus_kind: type of the bonus buffer.
        block_size: bytes.
        slots: of the dnode.
        bonus: the bonus buffer.
        spill: the spill block, decompressed, or empty.
        order: byte order of bonus, spill and metadata blocks.
        extents: where its contents are.
        inline: payloads that the outline holds.
        references: (snapshot's guid, object, offset) of blocks by reference.
        sealed: (how, place, what opens it) of encrypted blocks.
        withheld: whether a redacted send left some of it out.
    """

    number: int
    kind: int
    bonus_kind: int
    block_size: int
    slots: int
    bonus: bytes
    order: Literal["<", ">"]
    spill: bytes = b""
    extents: Extents = field(default_factory=Extents)
    inline: list[bytes] = field(default_factory=list)
    references: list[tuple[int, int, int]] = field(default_factory=list)
    sealed: list[tuple[int, int, Seal]] = field(default_factory=list)
    withheld: bool = False

    @property
    def pointers(self) -> int:
        """How many block pointers the dnode has."""
        if self.bonus_kind == SA_BONUS:
            return 1
        room = _SLOT * max(1, self.slots) - _CORE
        return min(_MOST_POINTERS, 1 + max(0, room - len(self.bonus)) // _POINTER)

    def generation(self) -> int:
        """Return the generation in the bonus, or 0 where there is none."""
        at = _SA_GENERATION + 8 if self.bonus_kind == SA_BONUS else _ZNODE_GENERATION
        if self.bonus_kind == SA_BONUS and len(self.bonus) > 6:  # noqa: PLR2004
            info = int.from_bytes(
                self.bonus[4:6], "little" if self.order == "<" else "big"
            )
            at = (info >> 10) * 8 + _SA_GENERATION
        raw = self.bonus[at : at + 8]
        return int(_LAYOUTS[self.order].number.unpack(raw)[0]) if len(raw) == 8 else 0  # noqa: PLR2004


class Objects:
    """The objects of the last snapshot of a chain.

    Args:
        chain: outlines from a full stream to the snapshot's own.
        read_stream: reads payloads; offsets are those of the archives' plaintext.
        elsewhere: returns the objects of another snapshot by its guid, or None; a
            deduplicated stream of several datasets refers from one to another.
        secrets: passphrases or keys of encrypted datasets, for streams sent raw.
    """

    def __init__(
        self,
        chain: Sequence[SubstreamOutline],
        read_stream: ReadStream,
        elsewhere: Callable[[int], Objects | None] = lambda _: None,
        secrets: Sequence[bytes] = (),
    ) -> None:
        self.chain = tuple(chain)
        self._elsewhere = elsewhere
        self._secrets = secrets
        self._keys: list[PartKeys | None] = [None] * len(self.chain)
        self._read_stream = read_stream
        self._states: OrderedDict[int, ObjectState | None] = OrderedDict()
        self._blocks: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._earlier: dict[int, Objects] = {}
        first = self.chain[0]
        if first.from_guid:
            raise StreamError(f"{first.part.name} is no full stream")

    def unlock(self) -> None:
        """Make ready to open what was sent raw; nothing to do where nothing was.

        Raises:
            NoIdentityError: it is encrypted, and no secret opens it.
            StreamError: its keys are damaged.
        """
        if any(map(is_raw, self.chain)) and not all(self._keys):
            self._keys = part_keys(self.chain, self._secrets)

    def state(self, number: int) -> ObjectState | None:
        """Return an object, or None if the snapshot has none of that number.

        Raises:
            StreamError: a record of it cannot be.
        """
        if number in self._states:
            self._states.move_to_end(number)
            return self._states[number]
        state = self._replay(number)
        self._states[number] = state
        if len(self._states) > _KEPT_OBJECTS:
            self._states.popitem(last=False)
        return state

    def changed_in(self, first: int) -> set[int]:
        """Return the objects that the streams from number ``first`` on speak of."""
        return set().union(*(part.numbers() for part in self.chain[first:]))

    def touched(self, number: int, first: int) -> bool:
        """Tell whether a stream from number ``first`` on says anything of an object."""
        return any(
            part.freed(number) >= 0 or part.records(number)
            for part in self.chain[first:]
        )

    def read(self, state: ObjectState, start: int, length: int) -> bytes:
        """Return bytes of an object; holes and what lies beyond are zeros.

        Raises:
            StreamError: a block is damaged, or was withheld by a redacted send.
        """
        out = bytearray(length)
        for span in state.extents.spans(start, start + length):
            at = span.start - start
            out[at : at + span.end - span.start] = self.fill(state, span)
        return bytes(out)

    def fill(self, state: ObjectState, span: Span, depth: int = 0) -> bytes:
        """Return the bytes of a span.

        Raises:
            StreamError: as ``read``.
        """
        payload = span.payload
        skip, count = span.start - payload.start, span.end - span.start
        if payload.how == WITHHELD:
            raise StreamError(
                f"object {state.number} has contents that a redacted send left out"
            )
        if payload.how == BY_REFERENCE:
            return self._follow(state, payload, skip, count, depth)
        if payload.how == IN_STREAM and payload.codec in (INHERIT, OFF):
            # A block that its sender cut short is zeros from there on.
            have = max(0, min(count, payload.stored - skip))
            data = self._read_stream(payload.source, payload.place + skip, have)
            return data + bytes(count - have)
        block = self._block(state, payload)
        return block[skip : skip + count].ljust(count, b"\0")

    def _block(self, state: ObjectState, payload: Payload) -> bytes:
        if payload.how == SEALED:
            return self._sealed(state, payload)
        if payload.how == INLINE:
            stored = state.inline[payload.place]
            return bytes(decompress(payload.codec, stored, payload.size))
        key = (payload.source, payload.place)
        if key not in self._blocks:
            stored = self._read_stream(*key, payload.stored)
            block = bytes(decompress(payload.codec, stored, payload.size))
            self._keep(key, block)
        self._blocks.move_to_end(key)
        return self._blocks[key]

    def _sealed(self, state: ObjectState, payload: Payload) -> bytes:
        """Return an encrypted block; ``fill`` asks for it span by span, so keep it."""
        how, place, seal = state.sealed[payload.place]
        key = (payload.source, place if how == IN_STREAM else -1 - payload.place)
        keys = self._keys[payload.source]
        if keys is None:
            raise StreamError(f"object {state.number} is encrypted")
        if how == INLINE:
            stored = state.inline[place]
        elif key in self._blocks:
            return self._blocks[key]
        else:
            stored = self._read_stream(payload.source, place, payload.stored)
        plain = keys.open(seal, stored)
        block = bytes(decompress(payload.codec, plain, payload.size))
        if how == IN_STREAM:
            self._keep(key, block)
        return block

    def _keep(self, key: tuple[int, int], block: bytes) -> None:
        self._blocks[key] = block
        if len(self._blocks) > _KEPT_BLOCKS:
            self._blocks.popitem(last=False)

    def _follow(
        self, state: ObjectState, payload: Payload, skip: int, count: int, depth: int
    ) -> bytes:
        guid, number, offset = state.references[payload.place]
        if depth > _DEEPEST:
            raise StreamError(f"object {state.number}: references go round in a circle")
        there = self._at(guid)
        target = there.state(number)
        if target is None:
            raise StreamError(
                f"object {state.number} refers to object {number}, which is not there"
            )
        out = bytearray(count)
        start = offset + skip
        for span in target.extents.spans(start, start + count):
            at = span.start - start
            out[at : at + span.end - span.start] = there.fill(target, span, depth + 1)
        return bytes(out)

    def _at(self, guid: int) -> Objects:
        """Return the objects of a snapshot, of this chain or another."""
        if guid == self.chain[-1].guid:
            return self
        if guid in self._earlier:
            return self._earlier[guid]
        guids = [part.guid for part in self.chain]
        found: Objects | None
        if guid in guids:
            part = self.chain[: guids.index(guid) + 1]
            found = Objects(part, self._read_stream, self._elsewhere, self._secrets)
        else:
            found = self._elsewhere(guid)
        if found is None:
            raise StreamError(f"a block refers to snapshot {guid}, which is not there")
        found.unlock()
        self._earlier[guid] = found
        return found

    def _replay(self, number: int) -> ObjectState | None:
        state: ObjectState | None = None
        for source, part in enumerate(self.chain):
            freed = part.freed(number)
            for record in part.records(number):
                if 0 <= freed < record.where:
                    state, freed = None, -1
                step = _Step(part, source, number, state, self._keys[source])
                state = step.take(record)
            if freed >= 0:
                state = None
        return state


@dataclass
class _Step:
    """One record on its way into an object's state."""

    part: SubstreamOutline
    source: int
    number: int
    state: ObjectState | None
    keys: PartKeys | None

    def take(self, record: Record) -> ObjectState | None:
        layout = _LAYOUTS[self.part.order]
        (kind,) = layout.kind.unpack_from(record.head)
        if kind == _OBJECT:
            return self._object(layout, record)
        if kind in (_WRITE, _FREE, _BYREF, _SPILL, _EMBEDDED, _REDACT):
            self._block(layout, kind, record)
        return self.state

    def _block(self, layout: _Layout, kind: int, record: Record) -> None:
        state = self.state
        if state is None:
            if kind == _FREE:
                return
            raise StreamError(f"object {self.number} is written before it is made")
        if kind == _WRITE:
            self._write(state, layout, record)
        elif kind == _FREE:
            offset, length = layout.extent.unpack_from(record.head)
            state.extents.punch(*_stretch(offset, length))
        elif kind == _BYREF:
            self._byref(state, layout, record)
        elif kind == _EMBEDDED:
            self._embedded(state, layout, record)
        elif kind == _SPILL:
            size, _flags, codec, _stored = layout.spill.unpack_from(record.head)
            held = record.held
            if self.keys is not None:
                held = self.keys.spill(record.head, held)
            state.spill = bytes(decompress(codec, held, size))
        else:
            offset, length = layout.extent.unpack_from(record.head)
            start, end = _stretch(offset, length)
            state.withheld = True
            gone = Payload(start, WITHHELD, 0, 0, 0, 0, self.source)
            state.extents.write(start, end, gone)

    def _write(self, state: ObjectState, layout: _Layout, record: Record) -> None:
        offset, size, codec, packed = layout.write.unpack_from(record.head)
        how, place = IN_STREAM, record.where + _HEADER
        stored = packed if codec else size
        if record.held:
            how, place = INLINE, len(state.inline)
            state.inline.append(record.held)
        start, end = _stretch(offset, size)
        seal = self.keys.write_seal(record.head) if self.keys is not None else None
        if seal is not None:
            state.sealed.append((how, place, seal))
            how, place = SEALED, len(state.sealed) - 1
        payload = Payload(start, how, place, stored, size, codec, self.source)
        state.extents.write(start, end, payload)

    def _embedded(self, state: ObjectState, layout: _Layout, record: Record) -> None:
        offset, length, codec, size, packed = layout.embedded.unpack_from(record.head)
        start, end = _stretch(offset, length)
        place = len(state.inline)
        state.inline.append(record.held[:packed])
        payload = Payload(start, INLINE, place, packed, size, codec, self.source)
        state.extents.write(start, end, payload)

    def _byref(self, state: ObjectState, layout: _Layout, record: Record) -> None:
        offset, length, *reference = layout.byref.unpack_from(record.head)
        if length > _LARGEST_BLOCK:
            raise StreamError(f"a reference to {length} bytes cannot be")
        start, end = _stretch(offset, length)
        guid, number, place = reference
        state.references.append((guid, number, place))
        count = len(state.references) - 1
        payload = Payload(start, BY_REFERENCE, count, 0, length, 0, self.source)
        state.extents.write(start, end, payload)

    def _object(self, layout: _Layout, record: Record) -> ObjectState:
        fields = layout.object.unpack_from(record.head)
        kind, bonus_kind, block_size, bonus_length, slots, flags = fields
        # Encrypted, it may be longer than what is in it.
        raw = is_raw(self.part)
        held = record.held
        if self.keys is not None:
            held = self.keys.bonus(record, self.number)[:bonus_length]
        fresh = ObjectState(
            number=self.number,
            kind=kind,
            bonus_kind=bonus_kind,
            block_size=block_size,
            slots=slots,
            bonus=held if raw else held[:bonus_length],
            order=self.part.order,
        )
        old = self.state
        if old is None:
            return fresh
        if not self._loses_blocks(old, fresh):
            fresh.extents, fresh.inline = old.extents, old.inline
            fresh.references, fresh.withheld = old.references, old.withheld
            fresh.sealed = old.sealed
        # Streams that say which objects have a spill block take it from the others.
        if not self.part.part.flags & _SPILL_BLOCK or flags & _HAS_SPILL:
            fresh.spill = old.spill
        return fresh

    def _loses_blocks(self, old: ObjectState, fresh: ObjectState) -> bool:
        if max(1, old.slots) != max(1, fresh.slots) or fresh.pointers < old.pointers:
            return True
        if old.block_size == fresh.block_size:
            return False
        # A sender that was switched to large blocks (-L) says a larger size of a
        # file of several blocks, and means the same file.
        return not (
            self.part.from_guid
            and old.kind == fresh.kind == _PLAIN_FILE
            and old.extents.end > old.block_size
            and fresh.block_size > old.block_size
            and old.generation() == fresh.generation()
        )


def _stretch(offset: int, length: int) -> tuple[int, int]:
    """Return (start, end); the largest length means to the end of the object."""
    if offset >= FOREVER:
        raise StreamError(f"an offset of {offset} bytes cannot be")
    return offset, min(offset + length, FOREVER)


def walk(state: ObjectState, size: int) -> Iterator[Span]:
    """Yield the spans of a file of ``size`` bytes; the rest is holes."""
    yield from state.extents.spans(0, size)
