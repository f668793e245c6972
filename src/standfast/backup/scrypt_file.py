"""Files of scrypt(1), version 0: read twice, so that nothing is given out unproven.

The format is that of FORMAT in Tarsnap's scrypt: a header of 96 bytes (``scrypt``,
version, log2 N, r, p, salt, a checksum, an HMAC that tells whether the passphrase
fits), AES-256-CTR of the plaintext, and an HMAC-SHA-256 of all that as the last 32
bytes. There is no length, so a cut file shows at its very end only, after scrypt(1)
has written out everything before. Here the first pass proves the whole file and
keeps a tag of each MiB; the second gives plaintext, each MiB only if it is the one
that was proven.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from standfast.backup.sealing import fingerprint
from standfast.errors import DamagedError, NoIdentityError, StandfastError, UsageError
from standfast.units import GIB, MIB, size_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MAGIC: Final = b"scrypt"
DEFAULT_MEMORY: Final = 2 * GIB
_HEADER = 96
_SALTED = 48
_CHECKED = 64
_MAC = 32
_SMALLEST = _HEADER + _MAC
_VERSION = 0
_BLOCK = MIB
_MOST_LOG_N = 63
_R_TIMES_P = 1 << 30
# scrypt(1) aims at 5 s, N * r * p = 2^23 on a machine of 2026; two hundred times
# that is minutes, and no file that was made with the defaults needs it.
_MOST_WORK = 1 << 31


@dataclass(frozen=True)
class Header:
    """What the first 96 bytes say.

    Attributes:
        log_n: log2 of scrypt's N.
        r: scrypt's r.
        p: scrypt's p.
        salt: 32 bytes.
        raw: the 64 bytes that the header's HMAC covers.
        tag: that HMAC, 32 bytes.
    """

    log_n: int
    r: int
    p: int
    salt: bytes
    raw: bytes
    tag: bytes

    @property
    def memory(self) -> int:
        """Bytes that the key derivation needs."""
        return 128 * self.r << self.log_n


@dataclass(frozen=True)
class Pass:
    """What a pass over a whole file says.

    Attributes:
        sha256: of all its bytes, in hex.
        authentic: whether its final MAC fits.
    """

    sha256: str
    authentic: bool


def parse_header(head: bytes) -> Header:
    """Return the header in a file's first bytes.

    Raises:
        DamagedError: this is no scrypt file of version 0, or its header is altered.
    """
    if head[: len(MAGIC)] != MAGIC:
        raise DamagedError("this is no file of scrypt(1)")
    if len(head) < _HEADER:
        raise DamagedError(f"cut inside the header: only {len(head)} bytes")
    if head[6] != _VERSION:
        raise DamagedError(f"a file of scrypt(1) of version {head[6]}, not 0")
    if hashlib.sha256(head[:_SALTED]).digest()[:16] != head[_SALTED:_CHECKED]:
        raise DamagedError("the header is altered: its checksum does not fit")
    log_n, r, p = head[7], *(int.from_bytes(head[i : i + 4], "big") for i in (8, 12))
    if not (0 < log_n <= _MOST_LOG_N and r and p and r * p < _R_TIMES_P):
        raise DamagedError(f"impossible scrypt parameters: 2^{log_n}, {r}, {p}")
    raw = bytes(head[:_CHECKED])
    return Header(log_n, r, p, raw[16:_SALTED], raw, bytes(head[_CHECKED:_HEADER]))


def derive_keys(header: Header, passphrase: bytes, memory: int) -> tuple[bytes, bytes]:
    """Return (encryption key, MAC key), if the passphrase fits.

    Args:
        header: the file's.
        passphrase: as it was typed, without a line feed.
        memory: the most bytes that may be taken.

    Raises:
        UsageError: it would take more memory, or many minutes.
        NoIdentityError: the passphrase is wrong (or the header's HMAC was altered).
        StandfastError: there is not that much memory.
    """
    if header.memory > memory:
        raise UsageError(
            f"its passphrase takes {size_text(header.memory)} of memory to check, "
            f"{size_text(memory)} are allowed",
            hint="pass --max-memory if this machine has so much",
        )
    if (header.r * header.p) << header.log_n > _MOST_WORK:
        raise UsageError(
            f"its passphrase would take very long to check: N=2^{header.log_n} "
            f"r={header.r} p={header.p}",
            hint="`scrypt dec` and `backup send --stdin` bring it over",
        )
    kdf = Scrypt(header.salt, length=64, n=1 << header.log_n, r=header.r, p=header.p)
    try:
        keys = kdf.derive(passphrase)
    except MemoryError:
        raise StandfastError(
            f"there is not enough memory to check its passphrase: "
            f"{size_text(header.memory)}",
            hint="free some, or use a larger machine",
        ) from None
    if not hmac.compare_digest(_hmac(keys[32:], header.raw).digest(), header.tag):
        raise NoIdentityError("the passphrase is wrong")
    return keys[:32], keys[32:]


class ScryptFile:
    """An open file whose passphrase fits.

    Raises:
        UsageError: it cannot be opened, or is no regular file; see ``derive_keys``.
        DamagedError: see ``parse_header``.
        NoIdentityError: the passphrase is wrong.
    """

    def __init__(self, path: Path, passphrase: bytes, memory: int) -> None:
        self.path = path
        self._fd = _open_regular(path)
        try:
            self.size = os.fstat(self._fd).st_size
            self._head = os.pread(self._fd, _HEADER, 0)
            header = parse_header(self._head)
            self._key, self._mac_key = derive_keys(header, passphrase, memory)
        except BaseException:
            self.close()
            raise
        self._tag_key = os.urandom(32)
        self._tags: list[str] = []
        self._proven = False

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def prove(
        self, see: Callable[[memoryview], None], progress: Callable[[int], None]
    ) -> Pass:
        """Read all of the file and say whether it is authentic.

        Args:
            see: is shown the plaintext, of which nothing is proven yet.
            progress: is told how many bytes were read.

        Raises:
            DamagedError: the file becomes shorter while it is read.
        """
        digest = hashlib.sha256(self._head)
        mac = _hmac(self._mac_key, self._head)
        self._tags.clear()
        for index, (block, plain) in enumerate(self._blocks()):
            digest.update(block)
            mac.update(block)
            self._tags.append(fingerprint(self._tag_key, index, block))
            see(plain)
            progress(len(block))
        last = self._read(max(_HEADER, self.size - _MAC), self.size)
        digest.update(last)
        self._proven = hmac.compare_digest(mac.digest(), bytes(last))
        return Pass(digest.hexdigest(), self._proven)

    def plaintext(self) -> Iterator[memoryview]:
        """Yield the plaintext of a file that was proven, a MiB at a time.

        What is yielded is good until the next is asked for.

        Raises:
            DamagedError: the file is not what was proven.
        """
        if not self._proven:
            raise DamagedError("its final MAC does not fit")
        for index, (block, plain) in enumerate(self._blocks()):
            if fingerprint(self._tag_key, index, block) != self._tags[index]:
                raise self._changed()
            yield plain

    def _blocks(self) -> Iterator[tuple[memoryview, memoryview]]:
        """Yield each MiB between header and MAC, as it is and decrypted."""
        cipher = Cipher(algorithms.AES256(self._key), modes.CTR(bytes(16)))
        opener = cipher.decryptor()
        # `cryptography` wants a block less one byte of room beyond the data.
        room = memoryview(bytearray(_BLOCK + 15))
        place, end = _HEADER, self.size - _MAC
        while place < end:
            block = self._read(place, min(place + _BLOCK, end))
            place += len(block)
            yield block, room[: opener.update_into(block, room)]

    def _read(self, start: int, end: int) -> memoryview:
        data = memoryview(bytearray(end - start))
        done = 0
        while done < len(data):
            count = os.preadv(self._fd, [data[done:]], start + done)
            if count == 0:
                raise self._changed()
            done += count
        return data

    def _changed(self) -> DamagedError:
        return DamagedError(f"{self.path} changed while it was read")


def hash_file(path: Path) -> str:
    """Return a file's SHA-256 in hex.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None


def _open_regular(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise UsageError(
            f"{path} is no regular file", hint="it is read twice, a pipe cannot be"
        )
    return fd


def _hmac(key: bytes, data: bytes) -> hmac.HMAC:
    return hmac.new(key, data, hashlib.sha256)
