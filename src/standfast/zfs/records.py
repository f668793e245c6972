"""Send streams are checked on the way through: framing, checksums, completeness.

The format is that of ``dmu_replay_record`` in OpenZFS (sys/zfs_ioctl.h): records of
a 312-byte header and a payload, all integers in the sender's byte order, one
running fletcher-4 from each BEGIN to its END. Both byte orders, single and compound
streams, and those of senders that record no checksum but END's are read. This is a
push parser over whatever pieces come: it copies no payload and keeps under 312
bytes between pieces, save for the list in a compound header. It says nothing about
what the blocks mean, and does not check that a receiver would take them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache
from struct import Struct
from typing import TYPE_CHECKING, Final, Literal, Protocol

from standfast.errors import StreamError
from standfast.zfs.fletcher import Fletcher4
from standfast.zfs.nvlist import parse_nvlist

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from standfast.zfs.nvlist import NvList, Value

    Buffer = bytes | bytearray | memoryview
    # (header's buffer, its offset there) -> (payload length, toguid)
    Measure = Callable[[memoryview, int], tuple[int, int]]

RECOGNISE_BYTES: Final = 312

_HEADER = 312
_MAGIC = 0x2F5BACBAC
_MAGIC_END = 16
# Where all records but BEGIN hold the running checksum.
_RECORDED = 280
_BEGIN, _OBJECT, _FREEOBJECTS, _WRITE, _FREE, _END = range(6)
_BYREF, _SPILL, _EMBEDDED, _RANGE, _REDACT = range(6, 11)
_NAMES = (
    "BEGIN",
    "OBJECT",
    "FREEOBJECTS",
    "WRITE",
    "FREE",
    "END",
    "WRITE_BYREF",
    "SPILL",
    "WRITE_EMBEDDED",
    "OBJECT_RANGE",
    "REDACT",
)
_SUBSTREAM, _COMPOUND = 1, 2
_FEATURES = {
    0: "DEDUP",
    1: "DEDUPPROPS",
    2: "SA_SPILL",
    16: "EMBED_DATA",
    17: "LZ4",
    19: "LARGE_BLOCKS",
    20: "RESUMING",
    21: "REDACTED",
    22: "COMPRESSED",
    23: "LARGE_DNODE",
    24: "RAW",
    25: "ZSTD",
    26: "HOLDS",
    27: "SWITCH_TO_LARGE_BLOCKS",
    28: "LONGNAME",
    29: "LARGE_MICROZAP",
}
_FEATURE_BITS = range(2, 64)

# Limits of ZFS itself: SPA_MAXBLOCKSIZE, DN_MAX_OBJECT + 1, the bonus room of the
# largest dnode, BPE_PAYLOAD_SIZE. Beyond them a length cannot be believed.
_LARGEST_BLOCK = 16 << 20
_OBJECTS = 1 << 48
_MOST_SLOTS = 32
_LARGEST_BONUS = 16 << 10
_LARGEST_EMBEDDED = 112
# What the kernel, and libzfs by default, take as the payload of a BEGIN.
_LARGEST_BEGIN = 256 << 20
_LARGEST_LIST = 64 << 20


@dataclass(frozen=True)
class Substream:
    """One snapshot's stream, alone or within a compound stream.

    Attributes:
        toname: ``pool/fs@snap`` as the sender called it.
        toguid: the snapshot's guid.
        fromguid: the guid of what it is incremental from, or 0.
        creation: seconds since 1970.
        kind: what the dataset is.
        features: the names of the features in use, sorted.
    """

    toname: str
    toguid: int
    fromguid: int
    creation: int
    kind: Literal["filesystem", "volume", "other"]
    features: tuple[str, ...]


@dataclass(frozen=True)
class StreamFacts:
    """What a whole stream turned out to be.

    Attributes:
        bytes: its length.
        records: how many records, BEGINs and ENDs included.
        compound: made of substreams under one header.
        big_endian: the sender's byte order.
        raw: at least one substream is raw, that is encrypted as on disk.
        features: all features of header and substreams, sorted.
        streams: the substreams, in order.
        toname: the stream's own, or the compound header's.
        toguid: of the snapshot that is called toname.
        fromguid: of a compound stream, that of the first substream of the dataset
            in toname; 0 if the stream is full.
    """

    bytes: int
    records: int
    compound: bool
    big_endian: bool
    raw: bool
    features: tuple[str, ...]
    streams: tuple[Substream, ...]
    toname: str
    toguid: int
    fromguid: int


def looks_like_stream(head: Buffer) -> bool:
    """Tell whether data begins with a BEGIN record of either byte order.

    Args:
        head: the first bytes, at least 16 of them (RECOGNISE_BYTES will do).
    """
    return _byte_order(head) is not None


def _byte_order(head: Buffer) -> Literal["<", ">"] | None:
    start = bytes(head[:_MAGIC_END])
    if start[:4] != bytes(4):
        return None
    if start[8:] == _MAGIC.to_bytes(8, "little"):
        return "<"
    return ">" if start[8:] == _MAGIC.to_bytes(8, "big") else None


class _RecordError(Exception):
    """What is wrong with one record; the walker knows where it lies."""


class _Layout:
    """The records' fields in one byte order, and the length of each payload."""

    def __init__(self, order: str) -> None:
        self.kind = Struct(order + "I")
        self.begin = Struct(order + "4xI8xQQIIQQ256s")
        # kind, object, logical_size, toguid, compressiontype, compressed_size
        self.write = Struct(order + "I4xQ16xQQ2xB45xQ")
        self.end = Struct(order + "II4QQ")
        self._object = Struct(order + "8xQ8xIIxxBxIQ")
        self._four = Struct(order + "8x4Q")
        self._spill = Struct(order + "8xQQQ8xQ")
        self._embedded = Struct(order + "8xQQQQ8xII")
        self.measures: dict[int, Measure] = {
            _OBJECT: self._measure_object,
            _FREEOBJECTS: self._measure_objects,
            _FREE: self._measure_extent,
            _BYREF: self._measure_extent,
            _SPILL: self._measure_spill,
            _EMBEDDED: self._measure_embedded,
            _RANGE: self._measure_range,
            _REDACT: self._measure_extent,
        }

    def _measure_object(self, view: memoryview, at: int) -> tuple[int, int]:
        fields = self._object.unpack_from(view, at)
        number, size, bonus, slots, raw_bonus, guid = fields
        length = raw_bonus or (bonus + 7) & ~7
        if (
            not 0 < number < _OBJECTS
            or size > _LARGEST_BLOCK
            or slots > _MOST_SLOTS
            or length > _LARGEST_BONUS
            or length % 4
        ):
            raise _RecordError(
                f"impossible OBJECT (number {number}, blocks of {size} bytes, "
                f"{slots} slots, {length} bytes of bonus)"
            )
        return length, guid

    def _measure_objects(self, view: memoryview, at: int) -> tuple[int, int]:
        _first, _count, guid, _pad = self._four.unpack_from(view, at)
        return 0, guid

    def _measure_range(self, view: memoryview, at: int) -> tuple[int, int]:
        first, count, guid, _salt = self._four.unpack_from(view, at)
        if first >= _OBJECTS or count > _OBJECTS:
            raise _RecordError(f"impossible OBJECT_RANGE ({count} from {first})")
        return 0, guid

    def _measure_extent(self, view: memoryview, at: int) -> tuple[int, int]:
        number, _offset, _length, guid = self._four.unpack_from(view, at)
        if not 0 < number < _OBJECTS:
            raise _RecordError(f"impossible object number {number}")
        return 0, guid

    def _measure_spill(self, view: memoryview, at: int) -> tuple[int, int]:
        number, size, guid, packed = self._spill.unpack_from(view, at)
        _check_block(number, size, packed or size, "SPILL")
        return packed or size, guid

    def _measure_embedded(self, view: memoryview, at: int) -> tuple[int, int]:
        fields = self._embedded.unpack_from(view, at)
        number, _offset, span, guid, size, packed = fields
        if (
            not 0 < number < _OBJECTS
            or span > _LARGEST_BLOCK
            or size > _LARGEST_BLOCK
            or packed > _LARGEST_EMBEDDED
        ):
            raise _RecordError(
                f"impossible WRITE_EMBEDDED ({packed} bytes for {size} of object "
                f"{number})"
            )
        return (packed + 7) & ~7, guid


def _check_block(number: int, size: int, length: int, name: str) -> None:
    """Refuse lengths and object numbers that no sender can have written."""
    if (
        not 0 < number < _OBJECTS
        or not 0 < size <= _LARGEST_BLOCK
        or not 0 < length <= _LARGEST_BLOCK
        or length % 4
    ):
        raise _RecordError(
            f"impossible {name} ({length} bytes for {size} of object {number})"
        )


@cache
def _layout(order: str) -> _Layout:
    return _Layout(order)


class _Stage(Enum):
    """What may come next."""

    START = "a BEGIN record"
    HEADER = "the compound header's END record"
    INSIDE = "the END record of a substream"
    BETWEEN = "the last END record of the compound stream"
    ENDED = "nothing"


@dataclass(frozen=True)
class _Begin:
    """The fields of a BEGIN record."""

    payload: int
    version: int
    creation: int
    kind: int
    flags: int
    toguid: int
    fromguid: int
    toname: str

    @property
    def header_type(self) -> int:
        return self.version & 3

    @property
    def features(self) -> tuple[str, ...]:
        bits = (bit - 2 for bit in _FEATURE_BITS if self.version >> bit & 1)
        return tuple(sorted(_FEATURES.get(bit, f"FEATURE_{bit}") for bit in bits))

    def substream(self) -> Substream:
        kinds: dict[int, Literal["filesystem", "volume"]] = {
            2: "filesystem",
            3: "volume",
        }
        return Substream(
            self.toname,
            self.toguid,
            self.fromguid,
            self.creation,
            kinds.get(self.kind, "other"),
            self.features,
        )


class Listener(Protocol):
    """Is told of what is inside each substream, after it was checked."""

    def begin(
        self, substream: Substream, flags: int, payload: int, *, big_endian: bool
    ) -> None:
        """A substream begins; ``payload`` bytes belong to its BEGIN record."""
        ...

    def records(
        self, view: memoryview, where: int, starts: Sequence[int], until: int
    ) -> None:
        """Its next bytes have come.

        Args:
            view: the rest of what came before, then whole headers with payloads;
                the last payload may be cut.
            where: the view's offset in the stream.
            starts: where in the view headers are.
            until: where the last payload ends; may be beyond the view.
        """
        ...


class StreamCheck:
    """Check one stream, piece by piece.

    What is refused: a record that no sender writes (unknown type, impossible
    length, object or guid), a recorded checksum that differs, anything but zeros
    where END has padding, bytes after the end, and a compound stream without all
    the snapshots that its header lists. After the first error every call raises it
    again.

    Args:
        listener: is told of the records of substreams, piece by piece.

    Attributes:
        name: the stream's toname, from its first BEGIN; until then empty.
        guid: the toguid there (0 for a compound header); until then 0.
    """

    def __init__(self, listener: Listener | None = None) -> None:
        self._listener = listener
        self.name = ""
        self.guid = 0
        self._stage = _Stage.START
        self._bytes = 0
        self._records = 0
        self._carry = bytearray()
        self._left = 0
        self._base = 0
        self._order: Literal["<", ">"] = "<"
        self._layout = _layout("<")
        self._sums: Fletcher4 | None = None
        self._begun = _Begin(0, 0, 0, 0, 0, 0, 0, "")
        self._header: _Begin | None = None
        self._list = bytearray()
        self._streams: list[Substream] = []
        self._begins: list[int] = []
        self._ends: list[int] = []
        self._error: StreamError | None = None

    def feed(self, data: Buffer) -> None:
        """Take in the next piece of the stream, of any size.

        Raises:
            StreamError: the stream is corrupt, or longer than it should be.
        """
        if self._error is not None:
            raise self._error
        try:
            self._feed(memoryview(data).cast("B"))
        except StreamError as error:
            self._error = error
            raise

    def finish(self) -> StreamFacts:
        """Say what the stream was, at the end of input.

        Raises:
            StreamError: the stream is corrupt or not complete.
        """
        if self._error is None and self._stage is not _Stage.ENDED:
            self._error = self._cut()
        if self._error is not None:
            raise self._error
        return self._facts()

    def spans(self) -> list[tuple[int, int | None]]:
        """Return (first byte, byte after the last) of each substream seen so far.

        The end of one that still runs is None; one with an end has passed all of
        its checks and is a stream by itself.
        """
        ends = [*self._ends, *[None] * (len(self._begins) - len(self._ends))]
        return list(zip(self._begins, ends, strict=True))

    def _feed(self, view: memoryview) -> None:
        if view and self._stage is _Stage.ENDED:
            raise self._corrupt(self._bytes, "data after the end of the stream")
        self._bytes += len(view)
        while self._carry and view:
            wanted = (4 if self._left else _HEADER) - len(self._carry)
            self._carry += view[:wanted]
            view = view[wanted:]
            whole = memoryview(bytes(self._carry))
            self._carry.clear()
            self._carry += whole[self._walk(whole) :]
        if view:
            self._carry += view[self._walk(view) :]

    def _walk(self, view: memoryview) -> int:
        """Absorb all of a piece but an incomplete header or word; say how much."""
        at = 0
        while True:
            if self._left or self._stage is _Stage.INSIDE:
                at = self._pass(view, at)
            if self._left or len(view) - at < _HEADER:
                break
            at = self._turn(view, at)
        if self._stage is _Stage.ENDED and at < len(view):
            raise self._corrupt(self._base + at, "data after the end of the stream")
        self._base += at
        return at

    def _pass(self, view: memoryview, start: int) -> int:
        """Absorb the rest of a payload, then records up to a BEGIN or END."""
        marks: list[int] = []
        at, problem = start + self._left, ""
        if self._stage is _Stage.INSIDE:
            at, problem = self._measure(view, at, marks)
        size = len(view)
        end = at if at <= size else size - (size - start) % 4
        self._records += len(marks)
        self._left = at - end
        self._prove(view, start, end, marks)
        if self._listener and self._stage is _Stage.INSIDE and end > start:
            starts = [mark - _RECORDED - start for mark in marks]
            where = self._base + start
            self._listener.records(view[start:end], where, starts, at - start)
        if problem:
            raise self._corrupt(self._base + at, problem)
        return end

    def _measure(self, view: memoryview, at: int, marks: list[int]) -> tuple[int, str]:
        """Go from header to header, and note where each has its checksum.

        Returns:
            Where the walk stopped: at a BEGIN or END, beyond the last whole header,
            or at a record that cannot be; and why it cannot.
        """
        last = len(view) - _HEADER
        unpack, measures = self._layout.write.unpack_from, self._layout.measures
        wanted = self._begun.toguid
        mark = marks.append
        try:
            while at <= last:
                kind, number, size, guid, compressed, packed = unpack(view, at)
                if kind == _WRITE:
                    length = packed if compressed else size
                    # The rules of _check_block in line: this is the hot path.
                    if (
                        length & 3
                        or not 0 < length <= _LARGEST_BLOCK
                        or not 0 < size <= _LARGEST_BLOCK
                        or not 0 < number < _OBJECTS
                    ):
                        _check_block(number, size, length, "WRITE")
                elif kind in measures:
                    length, guid = measures[kind](view, at)
                elif kind in (_BEGIN, _END):
                    break
                else:
                    return at, f"unknown record type {kind}"
                if guid != wanted:
                    return at, f"a {_NAMES[kind]} of another snapshot: {guid:#x}"
                mark(at + _RECORDED)
                at += _HEADER + length
        except _RecordError as error:
            return at, str(error)
        return at, ""

    def _prove(self, view: memoryview, start: int, end: int, marks: list[int]) -> None:
        """Absorb a stretch and compare the checksums recorded in it."""
        if start == end:
            return
        part = view[start:end]
        if self._stage is _Stage.HEADER:
            self._list += part
        sums = self._running_sums()
        wrong = sums.verify(part, [mark - start for mark in marks])
        if wrong >= 0:
            at = self._base + marks[wrong] - _RECORDED
            raise self._corrupt(at, "the checksum in this record is wrong")

    def _running_sums(self) -> Fletcher4:
        if self._sums is None:
            self._sums = Fletcher4(big_endian=self._order == ">")
        return self._sums

    def _turn(self, view: memoryview, at: int) -> int:
        """Take in a header that begins or ends something; say where it stops."""
        where = self._base + at
        header = view[at : at + _HEADER]
        if self._stage is _Stage.ENDED:
            raise self._corrupt(where, "data after the end of the stream")
        if self._stage is _Stage.START:
            self._recognise(header)
        (kind,) = self._layout.kind.unpack_from(header)
        self._records += 1
        begins = self._stage in (_Stage.START, _Stage.BETWEEN)
        if begins and kind == _BEGIN:
            self._begin(header, where)
        elif self._stage is _Stage.BETWEEN and kind == _END:
            self._end_all(header, where)
        elif not begins and kind == _END:
            self._end(header, where)
        else:
            name = _NAMES[kind] if kind < len(_NAMES) else f"type {kind}"
            raise self._corrupt(
                where, f"a {name} record instead of {self._stage.value}"
            )
        return at + _HEADER

    def _recognise(self, header: memoryview) -> None:
        order = _byte_order(header)
        if order is None:
            raise self._corrupt(0, "this is no send stream")
        self._order = order
        self._layout = _layout(order)

    def _begin(self, header: memoryview, where: int) -> None:
        if _byte_order(header) != self._order:
            raise self._corrupt(where, "a BEGIN record without its magic number")
        begun = self._parse_begin(header)
        first = self._stage is _Stage.START
        compound = begun.header_type == _COMPOUND
        if begun.header_type != _SUBSTREAM and not (compound and first):
            text = f"a BEGIN record of type {begun.header_type}"
            raise self._corrupt(where, text)
        most = _LARGEST_LIST if compound else _LARGEST_BEGIN
        if begun.payload > most or begun.payload % 4:
            text = f"impossible BEGIN with a payload of {begun.payload} bytes"
            raise self._corrupt(where, text)
        if first:
            self.name, self.guid = begun.toname, begun.toguid
        if compound:
            self._header = begun
        else:
            self._begins.append(where)
        self._stage = _Stage.HEADER if compound else _Stage.INSIDE
        self._begun = begun
        self._left = begun.payload
        sums = self._running_sums()
        sums.reset()
        sums.update(header)
        if self._listener and not compound:
            self._listener.begin(
                begun.substream(),
                begun.flags,
                begun.payload,
                big_endian=self._order == ">",
            )

    def _parse_begin(self, header: memoryview) -> _Begin:
        fields = self._layout.begin.unpack_from(header)
        payload, version, creation, kind, flags, toguid, fromguid, name = fields
        text = name.partition(b"\0")[0].decode("utf-8", "backslashreplace")
        return _Begin(payload, version, creation, kind, flags, toguid, fromguid, text)

    def _end(self, header: memoryview, where: int) -> None:
        """Check the END of a substream or of the compound header."""
        _kind, length, *recorded, guid = self._layout.end.unpack_from(header)
        sums = self._running_sums()
        if tuple(recorded) != sums.state:
            raise self._corrupt(where, "the END record's checksum is wrong")
        if guid != self._begun.toguid:
            raise self._corrupt(where, f"an END of another snapshot: {guid:#x}")
        if length or any(header[self._layout.end.size : _RECORDED]):
            raise self._corrupt(where, "padding of an END record is not zero")
        if sums.verify(header, [_RECORDED]) >= 0:
            raise self._corrupt(where, "the checksum in this record is wrong")
        if self._stage is _Stage.INSIDE:
            self._streams.append(self._begun.substream())
            self._ends.append(where + _HEADER)
        self._stage = _Stage.BETWEEN if self._header else _Stage.ENDED

    def _end_all(self, header: memoryview, where: int) -> None:
        """Check the last END of a compound stream, and that nothing is missing."""
        if any(header[self._layout.kind.size :]):
            raise self._corrupt(where, "padding of an END record is not zero")
        self._compare(self._parse_list() if self._list else {})
        if not any(stream.toname == self.name for stream in self._streams):
            raise _incomplete(self.name)
        self._stage = _Stage.ENDED

    def _parse_list(self) -> NvList:
        try:
            return parse_nvlist(self._list)
        except StreamError as error:
            raise self._corrupt(_HEADER, error.message) from error

    def _compare(self, header: NvList) -> None:
        """Compare a compound stream with the list in its header.

        ``zfs send -R`` writes the last END even after it failed half way. Old
        senders' -I leaves the list empty; then each dataset's first base is taken
        on trust, and the others must still be in the stream.
        """
        datasets = _datasets(header.get("fss", {}))
        tosnap, fromsnap = header.get("tosnap"), header.get("fromsnap")
        arrived = {stream.toguid for stream in self._streams}
        for dataset in datasets:
            guid = dataset.guid_of(tosnap)
            if not guid or guid not in arrived:
                raise _incomplete(f"{dataset.name}@{tosnap!s}")
        known = {0} | {dataset.origin for dataset in datasets}
        known |= {dataset.guid_of(fromsnap) for dataset in datasets}
        # A lone increment from a bookmark (`send -p -i`) has no fromsnap to name.
        lone = "not_recursive" in header and not fromsnap and len(self._streams) == 1
        if lone or not datasets:
            known |= set(_first_bases(self._streams).values())
        for stream in self._streams:
            if stream.fromguid not in known:
                raise _incomplete(f"what {stream.toname} is incremental from")
            known.add(stream.toguid)

    def _corrupt(self, where: int, what: str) -> StreamError:
        return StreamError(f"stream is corrupt at byte {where}: {what}")

    def _cut(self) -> StreamError:
        if not self._bytes:
            return StreamError("stream is cut: it is empty")
        begun = self._stage is not _Stage.START
        if not begun and self._bytes >= _MAGIC_END and _byte_order(self._carry) is None:
            return self._corrupt(0, "this is no send stream")
        if self._left:
            place = "inside a payload"
        elif self._carry:
            place = "inside a record's header"
        else:
            place = f"before {self._stage.value}"
        return StreamError(f"stream is cut: it ends after {self._bytes} bytes, {place}")

    def _facts(self) -> StreamFacts:
        streams = tuple(self._streams)
        features = {name for stream in streams for name in stream.features}
        if self._header is not None:
            features.update(self._header.features)
        named = [stream for stream in streams if stream.toname == self.name]
        return StreamFacts(
            bytes=self._bytes,
            records=self._records,
            compound=self._header is not None,
            big_endian=self._order == ">",
            raw=any("RAW" in stream.features for stream in streams),
            features=tuple(sorted(features)),
            streams=streams,
            toname=self.name,
            toguid=named[-1].toguid,
            fromguid=_first_bases(streams)[_dataset_of(self.name)],
        )


@dataclass(frozen=True)
class _Dataset:
    """What a compound header says about one dataset."""

    name: str
    origin: int
    snaps: NvList

    def guid_of(self, snapshot: object) -> int:
        """Return a snapshot's guid, or 0 where there is none."""
        guid = self.snaps.get(snapshot) if isinstance(snapshot, str) else None
        return guid if isinstance(guid, int) else 0


def _datasets(entries: Value) -> list[_Dataset]:
    """Return what ``fss`` lists.

    Raises:
        StreamError: it is not made as libzfs makes it.
    """
    if not isinstance(entries, dict):
        raise StreamError("stream is corrupt: fss in its header is no list")
    found = []
    for key, entry in entries.items():
        snaps = entry.get("snaps") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(snaps, dict):
            raise StreamError(f"stream is corrupt: its header lists no snaps in {key}")
        origin, name = entry.get("origin"), entry.get("name")
        found.append(
            _Dataset(
                name if isinstance(name, str) else key,
                origin if isinstance(origin, int) else 0,
                snaps,
            )
        )
    return found


def _dataset_of(toname: str) -> str:
    return toname.partition("@")[0]


def _first_bases(streams: Iterable[Substream]) -> dict[str, int]:
    """Return the fromguid of each dataset's first substream."""
    bases: dict[str, int] = {}
    for stream in streams:
        bases.setdefault(_dataset_of(stream.toname), stream.fromguid)
    return bases


def _incomplete(missing: str) -> StreamError:
    return StreamError(f"stream is incomplete: it lacks {missing}")
