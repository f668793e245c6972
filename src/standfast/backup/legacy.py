"""Archives of the old script: ``zfs send | pigz | scrypt enc``, with a sum beside.

``NAME.gz.sc`` holds one snapshot, ``NAME.gz.sc.sha256sum`` what left the sender. A
sum that fits says only that the transfer was whole: if ``zfs send``, ``pigz`` or
``scrypt`` had died, the script kept what there was, with a sum that fits. So each
layer is asked for its own end: scrypt's final MAC, gzip's trailer, the stream's END.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from standfast.backup.scrypt_file import ScryptFile, hash_file
from standfast.errors import DamagedError, NoIdentityError, StreamError, UsageError
from standfast.units import KIB, MIB
from standfast.zfs.records import StreamCheck

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from standfast.zfs.records import StreamFacts

SUFFIX = ".gz.sc"
SUM_SUFFIX = ".sha256sum"
FITS, DIFFERS, NONE = "fits", "differs", "none"
_LARGEST_SUM_FILE = 64 * KIB
# zlib keeps a copy of what it has not eaten yet; small slices keep that small.
_SLICE = 64 * KIB
_GZIP = 31
# coreutils' `SUM  NAME` and `SUM *NAME`, BSD's `SHA256 (NAME) = SUM`.
_COREUTILS = re.compile(r"\\?([0-9a-fA-F]{64})(?: [ *](.*))?")
_BSD = re.compile(r"SHA256 \((.*)\) = ([0-9a-fA-F]{64})")


@dataclass(frozen=True)
class Known:
    """What is known of an old archive once all of it was read.

    Attributes:
        name: ``DATASET@SNAPSHOT`` as its stream says; empty if it never got there.
        guid: the snapshot's; 0 likewise.
        size: bytes of the file.
        sha256: of the file; empty if it could not be read.
        sum: whether the sum beside it ``fits``, ``differs``, or there is ``none``.
        mac: whether scrypt's final MAC fits.
        stream_bytes: bytes of the stream that passed its checks, so far as it goes.
        fault: what is wrong with it; empty if it is whole.
        hint: what to do about that, or empty.
        facts: the stream's, if it is whole.
    """

    size: int
    name: str = ""
    guid: int = 0
    sha256: str = ""
    sum: str = NONE
    mac: bool = False
    stream_bytes: int = 0
    fault: str = ""
    hint: str = ""
    facts: StreamFacts | None = None


@dataclass(frozen=True)
class Found:
    """The old archives in a folder.

    Attributes:
        files: the archives, by name.
        orphans: sums whose archive is not there.
    """

    files: list[Path]
    orphans: list[Path] = field(default_factory=list)


def find_archives(place: Path) -> Found:
    """Return the old archives in a folder, or the one that is named.

    Raises:
        UsageError: there is none, or the folder cannot be read.
    """
    if place.is_file():
        return Found([place])
    try:
        names = {path.name for path in place.iterdir()}
    except OSError as error:
        raise UsageError(f"cannot read {place}: {error.strerror}") from None
    files = sorted(name for name in names if name.endswith(SUFFIX))
    sums = sorted(name for name in names if name.endswith(SUFFIX + SUM_SUFFIX))
    orphans = [name for name in sums if name.removesuffix(SUM_SUFFIX) not in names]
    if not files and not orphans:
        raise UsageError(f"no *{SUFFIX} in {place}")
    return Found([place / name for name in files], [place / name for name in orphans])


def parse_sum(text: str, name: str) -> str | None:
    """Return the SHA-256 that a sum file gives for ``name``, in hex; None if none.

    A sum without a name, as ``sha256 -q`` prints it, counts for any.
    """
    for line in text.splitlines():
        if found := _BSD.fullmatch(line.strip()):
            named, value = found.groups()
        elif found := _COREUTILS.fullmatch(line.strip()):
            value, named = found.groups()
        else:
            continue
        if named is None or named.rpartition("/")[2] == name:
            return str(value).lower()
    return None


def recorded_sum(path: Path) -> str | None:
    """Return the SHA-256 that lies beside an archive, or None."""
    try:
        with path.with_name(path.name + SUM_SUFFIX).open("rb") as file:
            text = file.read(_LARGEST_SUM_FILE)
    except OSError:
        return None
    return parse_sum(text.decode("utf-8", "replace"), path.name)


class OldArchive:
    """One old archive, opened with its passphrase; read once to judge, once to use.

    Args:
        path: the file.
        passphrase: as it was typed, without a line feed.
        memory: the most bytes that checking the passphrase may take.

    Raises:
        UsageError: it cannot be read, or its passphrase costs too much to check.
        DamagedError: it is no scrypt file, or its header is altered.
        NoIdentityError: the passphrase is wrong.
    """

    def __init__(self, path: Path, passphrase: bytes, memory: int) -> None:
        self.path = path
        self._sum = recorded_sum(path)
        try:
            self._file = ScryptFile(path, passphrase, memory)
        except NoIdentityError as error:
            # The header's HMAC is all that tells; a file that is not what was
            # stored must not be taken for one with another passphrase.
            if self._sum is not None and hash_file(path) != self._sum:
                raise DamagedError(
                    f"{path}: its SHA-256 is not that of {path.name}{SUM_SUFFIX}, and "
                    "its header does not fit the passphrase"
                ) from None
            raise NoIdentityError(
                f"{path}: {error.message}", hint="try the one of that time"
            ) from None
        except DamagedError as error:
            raise DamagedError(f"{path}: {error.message}") from None

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._file.size

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def examine(self, progress: Callable[[int], None]) -> Known:
        """Read all of it and say what it is, whole or not.

        Raises:
            DamagedError: the file becomes shorter while it is read.
        """
        look = _Look()
        read = self._file.prove(look.see, progress)
        problem = look.finish()
        kind = NONE
        if self._sum is not None:
            kind = FITS if self._sum == read.sha256 else DIFFERS
        fault, hint = _judge(kind, problem, authentic=read.authentic)
        return Known(
            size=self.size,
            name=look.check.name,
            guid=look.check.guid if look.facts is None else look.facts.toguid,
            sha256=read.sha256,
            sum=kind,
            mac=read.authentic,
            stream_bytes=look.passed,
            fault=fault,
            hint=hint,
            facts=None if fault else look.facts,
        )

    def stream(self) -> Iterator[memoryview]:
        """Yield the stream of an archive that was examined and is authentic.

        Raises:
            DamagedError: the file is not what was examined.
        """
        gunzip = Gunzip()
        for plain in self._file.plaintext():
            for piece in gunzip.feed(plain):
                yield memoryview(piece)
        gunzip.finish()


class Gunzip:
    """Decompress gzip data that comes in pieces; of several members, as pigz makes.

    What zlib gives is checked by each member's CRC and length at its end.
    """

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)
        self._fresh = True
        self._padded = False

    def feed(self, data: memoryview) -> Iterator[bytes]:
        """Yield what the next piece decompresses to, at most a MiB at a time.

        Raises:
            DamagedError: it is no gzip data.
        """
        for start in range(0, len(data), _SLICE):
            yield from self._feed(bytes(data[start : start + _SLICE]))

    def finish(self) -> None:
        """Return if the data ended where a member ends.

        Raises:
            DamagedError: it did not.
        """
        if not self._fresh:
            raise DamagedError("the gzip data is cut")

    def _feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._padded or (self._fresh and data[0] == 0):
                self._padded = True
                if any(data):
                    raise DamagedError("the gzip data is followed by something else")
                return
            self._fresh = False
            try:
                piece = self._member.decompress(data, MIB)
            except zlib.error as error:
                reason = str(error).rpartition(": ")[2]
                raise DamagedError(f"the gzip data is corrupt: {reason}") from None
            data = self._member.unconsumed_tail
            if self._member.eof:
                data = self._member.unused_data
                self._member = zlib.decompressobj(_GZIP)
                self._fresh = True
            if piece:
                yield piece


class _Look:
    """Follows the plaintext through gzip and the stream's checks, while they hold."""

    def __init__(self) -> None:
        self.check = StreamCheck()
        self.passed = 0
        self.facts: StreamFacts | None = None
        self._gunzip = Gunzip()
        self._problem = ""

    def see(self, data: memoryview) -> None:
        if self._problem:
            return
        try:
            for piece in self._gunzip.feed(data):
                self.check.feed(piece)
                self.passed += len(piece)
        except (DamagedError, StreamError) as error:
            self._problem = error.message

    def finish(self) -> str:
        """Return what is wrong with the stream, or an empty string."""
        if not self._problem:
            try:
                self._gunzip.finish()
                self.facts = self.check.finish()
            except DamagedError as error:
                self._problem = error.message
            except StreamError as error:
                self._problem = error.message
        return self._problem


def _judge(kind: str, problem: str, *, authentic: bool) -> tuple[str, str]:
    """Return what is wrong with an old archive, and a hint."""
    if not authentic:
        fault = {
            FITS: "its sum fits but its final MAC does not: scrypt had not come to its "
            "end when this was sent",
            DIFFERS: "neither its sum nor its final MAC fits: it was cut or altered "
            "after it was sent",
            NONE: "its final MAC does not fit, and there is no sum beside it: it was "
            "cut or altered",
        }[kind]
        return fault, "no part of it can be believed; another copy may be whole"
    if problem:
        fault = (
            f"it is sealed as it was sent, but what was sent is not whole: {problem}"
        )
        return fault, "zfs send or pigz had failed, and the script could not tell"
    if kind == DIFFERS:
        return (
            "its final MAC fits and its stream is whole, but its sum is another",
            f"if the {SUM_SUFFIX} file is what is wrong, move it away and try again",
        )
    return "", ""
