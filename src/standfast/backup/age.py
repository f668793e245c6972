"""The age v1 file format: header, stanzas, MAC, payload, armor.

Source: the specification `age-encryption.org/v1` (C2SP, age.md). The comments
here are meant to suffice for writing it anew. What a stanza holds is left to
recipients and identities (see `recipients.py`); here it is opaque.

Assumes that whole files fit in memory: the package cuts its data into packs.
It keeps no state between files, and starts no threads; one `ChunkSealer` belongs
to one thread, and several of them may run at once.
"""

from __future__ import annotations

import binascii
import hmac
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from standfast.errors import DamagedError, NoIdentityError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BytesLike: TypeAlias = bytes | bytearray | memoryview
Stage: TypeAlias = Literal["armor", "header", "hmac", "payload"]

CHUNK_SIZE = 65_536
"""Plaintext bytes of every chunk but the last, which has 0..65536."""
TAG_SIZE = 16
"""Bytes that Poly1305 adds to each chunk."""
SEALED_SIZE = CHUNK_SIZE + TAG_SIZE
"""Bytes on disk of a full chunk."""
FILE_KEY_SIZE = 16
"""Bytes of the key that every stanza wraps and the whole file hangs on."""
NONCE_SIZE = 16
"""Bytes of the payload nonce, between header and chunks."""

VERSION_LINE = b"age-encryption.org/v1"
SCRYPT_KIND = "scrypt"
POST_QUANTUM_KINDS = frozenset({"mlkem768x25519", "mlkem768p256tag"})

_MAC_SIZE = 32
_BASE64_COLUMNS = 64
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*")
_ARGUMENT = re.compile(rb"[!-~]+")
_SHOWN_KINDS = 6


class AgeError(DamagedError):
    """An age file is cut, altered, or not made by the rules.

    Attributes:
        stage: the part of the file that gave it away: `armor`, `header`, `hmac`
            (the header's MAC) or `payload`.
    """

    def __init__(self, message: str, *, stage: Stage, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.stage: Stage = stage


@dataclass(frozen=True)
class Stanza:
    """One wrapping of the file key.

    Attributes:
        kind: the first argument, such as `X25519`.
        args: the other arguments.
        body: the decoded body.
    """

    kind: str
    args: tuple[str, ...]
    body: bytes


class Recipient(Protocol):
    """Someone a file can be encrypted to."""

    def wrap(self, file_key: bytes) -> list[Stanza]:
        """Return the stanzas from which that recipient gets the file key."""
        ...


class Identity(Protocol):
    """A secret that opens what was encrypted to its recipient."""

    def unwrap(self, stanzas: Sequence[Stanza]) -> bytes | None:
        """Return the file key, or None if no stanza is for this identity.

        Raises:
            AgeError: a stanza of this identity's kind breaks the format's rules.
        """
        ...


@dataclass(frozen=True)
class Header:
    """What stands before the payload.

    Attributes:
        stanzas: in the file's order; one at least.
        signed: the bytes that the MAC covers: from the start to the `---`.
        mac: the MAC that the file carries.
        length: bytes of the header; the payload nonce starts there.
    """

    stanzas: tuple[Stanza, ...]
    signed: bytes
    mac: bytes
    length: int

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each stanza."""
        return tuple(stanza.kind for stanza in self.stanzas)


# --- keys -------------------------------------------------------------------


def hkdf(ikm: bytes, *, salt: bytes, info: bytes) -> bytes:
    """Return 32 bytes of HKDF-SHA-256 (RFC 5869), the only length age uses."""
    extracted = hmac.digest(salt, ikm, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def _mac(file_key: bytes, signed: bytes) -> bytes:
    # The MAC key has an empty salt, so it is the same for the whole file.
    return hmac.digest(hkdf(file_key, salt=b"", info=b"header"), signed, "sha256")


def _payload_key(file_key: bytes, nonce: bytes) -> bytes:
    return hkdf(file_key, salt=nonce, info=b"payload")


# --- base64 and armor -------------------------------------------------------


def encode_base64(data: bytes) -> str:
    """Return standard base64 without padding, on one line."""
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").decode("ascii")


def decode_base64(text: str | bytes) -> bytes:
    """Return the bytes of unpadded, canonical base64.

    Canonical means that the unused low bits of the last character are zero: each
    byte string then has one spelling, and no bit of a header is free.

    Raises:
        ValueError: anything else, padding and white space among it.
    """
    raw = text.encode("ascii") if isinstance(text, str) else text
    if not _BASE64.fullmatch(raw) or len(raw) % 4 == 1:
        raise ValueError("not base64")
    data = binascii.a2b_base64(raw + b"=" * (-len(raw) % 4), strict_mode=True)
    if encode_base64(data).encode("ascii") != raw:
        raise ValueError("base64 is not canonical")
    return data


# Armor is strict PEM: these two lines around padded base64 of 64 columns.
_BEGIN = b"-----BEGIN AGE ENCRYPTED FILE-----"
_END = b"-----END AGE ENCRYPTED FILE-----"
# As the reference does: no more white space than this on either side.
_OUTSIDE_MAX = 1024
_WHITE = b" \t\r\n\v\f"


def is_armored(data: BytesLike) -> bool:
    """Return whether the data starts as an armored age file does."""
    start = bytes(data[: _OUTSIDE_MAX + len(_BEGIN)])
    return start.lstrip(_WHITE).startswith(_BEGIN)


def armor(data: BytesLike) -> bytes:
    """Return the armored form of a whole age file."""
    text = binascii.b2a_base64(data, newline=False)
    cuts = range(0, len(text), _BASE64_COLUMNS)
    lines = [text[cut : cut + _BASE64_COLUMNS] for cut in cuts]
    return b"\n".join([_BEGIN, *lines, _END, b""])


def dearmor(data: bytes) -> bytes:
    """Return the binary age file that an armored one holds.

    Lines end in LF or CRLF; around the block only white space may stand, at
    most 1024 bytes on a side. Otherwise one binary file has one armored form.

    Raises:
        AgeError: stage `armor`.
    """
    inner = data.lstrip(_WHITE)
    if len(data) - len(inner) > _OUTSIDE_MAX:
        raise AgeError("too much white space before the armor", stage="armor")
    # White space on the BEGIN line itself is no leading line.
    before = data[: len(data) - len(inner)]
    if before and not before.endswith(b"\n"):
        raise AgeError("white space before the armor's first line", stage="armor")
    lines = [line.removesuffix(b"\r") for line in inner.split(b"\n")]
    if lines[0] != _BEGIN or _END not in lines:
        raise AgeError("the armor has no begin or no end line", stage="armor")
    end = lines.index(_END)
    after = b"\n".join(lines[end + 1 :])
    if after.strip(_WHITE) or len(after) > _OUTSIDE_MAX:
        raise AgeError("something stands after the armor", stage="armor")
    return _decode_columns(lines[1:end])


def _decode_columns(lines: list[bytes]) -> bytes:
    if any(len(line) != _BASE64_COLUMNS for line in lines[:-1]):
        raise AgeError("an armor line is not 64 columns wide", stage="armor")
    if lines and not 0 < len(lines[-1]) <= _BASE64_COLUMNS:
        raise AgeError("the last armor line is empty or too long", stage="armor")
    text = b"".join(lines)
    try:
        data = decode_base64(text.rstrip(b"="))
    except ValueError as error:
        raise AgeError(f"bad armor: {error}", stage="armor") from None
    # Padding must be there, exactly: up to a multiple of four.
    if binascii.b2a_base64(data, newline=False) != text:
        raise AgeError("the armor's padding is wrong", stage="armor")
    return data


# --- header -----------------------------------------------------------------
#
#   age-encryption.org/v1 LF
#   -> KIND ARG... LF             one stanza or more; arguments are 0x21..0x7E,
#   BODY                          one space between them; the body is base64 in
#                                 lines of exactly 64 columns, and ends with a
#                                 line of 0..63 columns that is always there
#   --- MAC LF                    43 columns: HMAC-SHA-256 of all bytes up to and
#                                 with the three dashes
#
# LF alone ends a line; a CR is a character that no line may have.


def parse_header(data: BytesLike) -> Header:
    """Return the header that the data starts with; the MAC is not checked here.

    Raises:
        AgeError: stage `header`.
    """
    view = memoryview(data)
    line, offset = _line(view, 0)
    if line != VERSION_LINE:
        raise AgeError("not an age v1 file", stage="header")
    stanzas: list[Stanza] = []
    start = offset
    line, offset = _line(view, start)
    while line.startswith(b"-> "):
        body, offset = _body(view, offset)
        stanzas.append(_stanza(line, body))
        start = offset
        line, offset = _line(view, start)
    if not line.startswith(b"--- ") or not stanzas:
        raise AgeError("neither a stanza nor a MAC where one must be", stage="header")
    # A passphrase must be the only way in: whoever else could open the file
    # would otherwise be able to replace it, and it would still seem to be from
    # someone who knows the passphrase.
    if len(stanzas) > 1 and any(each.kind == SCRYPT_KIND for each in stanzas):
        raise AgeError("a scrypt stanza is not alone", stage="header")
    mac = _checked_base64(line[4:])
    if len(mac) != _MAC_SIZE:
        raise AgeError("the MAC is not 32 bytes", stage="header")
    return Header(tuple(stanzas), bytes(view[: start + 3]), mac, offset)


def _line(view: memoryview, start: int) -> tuple[bytes, int]:
    """Return the line at start without its LF, and the offset after that."""
    width = 256  # Most lines are shorter; what is wider takes another look.
    while True:
        piece = bytes(view[start : start + width])
        end = piece.find(b"\n")
        if end >= 0:
            return piece[:end], start + end + 1
        if start + width >= len(view):
            raise AgeError("the header is cut", stage="header")
        width *= 8


def _body(view: memoryview, offset: int) -> tuple[bytes, int]:
    text = bytearray()
    while True:
        line, offset = _line(view, offset)
        if len(line) > _BASE64_COLUMNS:
            raise AgeError("a stanza's line is too long", stage="header")
        text += line
        if len(line) < _BASE64_COLUMNS:
            return _checked_base64(bytes(text)), offset


def _stanza(line: bytes, body: bytes) -> Stanza:
    args = line.removeprefix(b"-> ").split(b" ")
    if not all(_ARGUMENT.fullmatch(arg) for arg in args):
        raise AgeError("a stanza has a malformed argument", stage="header")
    kind, *rest = (arg.decode("ascii") for arg in args)
    return Stanza(kind, tuple(rest), body)


def _checked_base64(text: bytes) -> bytes:
    try:
        return decode_base64(text)
    except ValueError as error:
        raise AgeError(f"bad header: {error}", stage="header") from None


def _encode_stanza(stanza: Stanza) -> bytes:
    body = encode_base64(stanza.body)
    # One more than the full lines: the last is short, and may be empty.
    cuts = range(0, len(body) + 1, _BASE64_COLUMNS)
    lines = [body[cut : cut + _BASE64_COLUMNS] for cut in cuts]
    first = " ".join(["->", stanza.kind, *stanza.args])
    return "\n".join([first, *lines, ""]).encode("ascii")


def _check_company(stanzas: Sequence[Stanza]) -> None:
    """Refuse recipients that would weaken each other.

    Raises:
        UsageError: there are none, a passphrase is not alone, or a classic
            recipient would undo what a post-quantum one is for.
    """
    if not stanzas:
        raise UsageError("no recipient to encrypt to")
    kinds = [stanza.kind for stanza in stanzas]
    if SCRYPT_KIND in kinds and len(kinds) > 1:
        raise UsageError(
            "a passphrase cannot be combined with other recipients",
            hint="encrypt to the passphrase alone, or to keys alone",
        )
    post_quantum = [kind in POST_QUANTUM_KINDS for kind in kinds]
    if any(post_quantum) and not all(post_quantum):
        raise UsageError(
            "post-quantum and classic recipients cannot be combined",
            hint="one classic recipient would undo what the others are for",
        )


def make_header(recipients: Sequence[Recipient]) -> tuple[bytes, ChunkSealer]:
    """Return a new file's header with its payload nonce, and its chunks' sealer.

    Each call draws a fresh file key and nonce, so no two files share a key.

    Raises:
        UsageError: no recipients, or some that must not be combined.
    """
    file_key = os.urandom(FILE_KEY_SIZE)
    stanzas = [each for recipient in recipients for each in recipient.wrap(file_key)]
    _check_company(stanzas)
    signed = b"".join([VERSION_LINE, b"\n", *map(_encode_stanza, stanzas), b"---"])
    mac = encode_base64(_mac(file_key, signed)).encode("ascii")
    nonce = os.urandom(NONCE_SIZE)
    header = b"".join([signed, b" ", mac, b"\n", nonce])
    return header, ChunkSealer(_payload_key(file_key, nonce))


def _open_header(
    data: BytesLike, identities: Sequence[Identity]
) -> tuple[ChaCha20Poly1305, memoryview]:
    """Return the payload's cipher and the sealed chunks.

    The order is the specification's: file key, its size, MAC, payload nonce.
    """
    header = parse_header(data)
    file_key = _file_key(header, identities)
    if len(file_key) != FILE_KEY_SIZE:
        raise AgeError("the file key is not 16 bytes", stage="header")
    if not hmac.compare_digest(header.mac, _mac(file_key, header.signed)):
        raise AgeError("the header was altered: its MAC is wrong", stage="hmac")
    payload = memoryview(data)[header.length :]
    if len(payload) < NONCE_SIZE:
        raise AgeError("the file is cut before its payload", stage="header")
    key = _payload_key(file_key, bytes(payload[:NONCE_SIZE]))
    return ChaCha20Poly1305(key), payload[NONCE_SIZE:]


def _file_key(header: Header, identities: Sequence[Identity]) -> bytes:
    for identity in identities:
        file_key = identity.unwrap(header.stanzas)
        if file_key is not None:
            return file_key
    kinds = sorted(set(header.kinds))
    shown = ", ".join(kinds[:_SHOWN_KINDS])
    raise NoIdentityError(
        "no identity opens this file",
        hint="it takes the right passphrase"
        if kinds == [SCRYPT_KIND]
        else f"it is encrypted to recipients of these kinds: {shown}",
    )


# --- payload ----------------------------------------------------------------
#
# The plaintext is cut into chunks of 65536 bytes; the last has 1..65536, and is
# empty only if the whole plaintext is. Each is ChaCha20-Poly1305 under the
# payload key, without associated data. The nonce is an 11-byte big-endian
# counter from 0 and a byte that is 1 for the last chunk, else 0 (STREAM): chunks
# can then be neither swapped nor dropped, nor the file cut between two of them.


def _nonce(counter: int, last: Literal[0, 1]) -> bytes:
    return (counter << 8 | last).to_bytes(12, "big")


def _seal_in_place(
    aead: ChaCha20Poly1305, nonce: bytes, chunk: BytesLike, out: memoryview
) -> int:
    return aead.encrypt_into(nonce, chunk, None, out[: len(chunk) + TAG_SIZE])


def _seal_and_copy(
    aead: ChaCha20Poly1305, nonce: bytes, chunk: BytesLike, out: memoryview
) -> int:
    sealed = aead.encrypt(nonce, chunk, None)
    out[: len(sealed)] = sealed
    return len(sealed)


def _open_in_place(
    aead: ChaCha20Poly1305, nonce: bytes, sealed: memoryview, out: memoryview
) -> None:
    aead.decrypt_into(nonce, sealed, None, out)


def _open_and_copy(
    aead: ChaCha20Poly1305, nonce: bytes, sealed: memoryview, out: memoryview
) -> None:
    out[:] = aead.decrypt(nonce, sealed, None)


# Older releases of `cryptography` return new bytes only. The difference is the
# page faults: a third of the time.
_HAS_INTO = hasattr(ChaCha20Poly1305, "encrypt_into")
_seal = _seal_in_place if _HAS_INTO else _seal_and_copy
_open = _open_in_place if _HAS_INTO else _open_and_copy


class ChunkSealer:
    """Seals one file's chunks in order, straight into the caller's memory."""

    __slots__ = ("_aead", "_counter", "_ended")

    def __init__(self, payload_key: bytes) -> None:
        self._aead = ChaCha20Poly1305(payload_key)
        self._counter = 0
        self._ended = False

    def seal_into(self, chunk: BytesLike, out: memoryview) -> int:
        """Seal a chunk that is full and not the last; return 65552.

        Args:
            chunk: 65536 bytes.
            out: writable, 65552 bytes or more; its start is overwritten.

        Raises:
            ValueError: wrong sizes, or the last chunk was sealed before.
        """
        if len(chunk) != CHUNK_SIZE or self._ended:
            raise ValueError("not a full chunk, or one after the last")
        written = _seal(self._aead, _nonce(self._counter, 0), chunk, out)
        self._counter += 1
        return written

    def seal_last_into(self, chunk: BytesLike, out: memoryview) -> int:
        """Seal the last chunk; return its length and 16.

        Args:
            chunk: 0..65536 bytes; empty only if it is the file's only chunk.
            out: writable and large enough; its start is overwritten.

        Raises:
            ValueError: wrong sizes, or the last chunk was sealed before.
        """
        if len(chunk) > CHUNK_SIZE or self._ended:
            raise ValueError("too long a chunk, or one after the last")
        if self._counter and not chunk:
            raise ValueError("an empty last chunk after others")
        self._ended = True
        return _seal(self._aead, _nonce(self._counter, 1), chunk, out)


def _chunk_count(plaintext: int) -> int:
    return max(1, -(-plaintext // CHUNK_SIZE))


def plaintext_length(file_len: int, header_len: int) -> int:
    """Return the plaintext's bytes for a file of that many, header included.

    Args:
        file_len: bytes of the whole binary file.
        header_len: `Header.length`, without the payload nonce.

    Raises:
        AgeError: stage `payload`; no file has that length.
    """
    return _plaintext_length(file_len - header_len - NONCE_SIZE)


def _plaintext_length(sealed: int) -> int:
    chunks = max(1, -(-sealed // SEALED_SIZE))
    plaintext = sealed - TAG_SIZE * chunks
    # The second holds where the last chunk would be nothing but a tag, or less.
    if plaintext < 0 or _chunk_count(plaintext) != chunks:
        raise AgeError("the file is cut within a chunk", stage="payload")
    return plaintext


def encrypt(plaintext: BytesLike, recipients: Sequence[Recipient]) -> bytes:
    """Return a whole binary age file.

    Raises:
        UsageError: no recipients, or some that must not be combined.
    """
    header, sealer = make_header(recipients)
    source = memoryview(plaintext)
    chunks = _chunk_count(len(source))
    sealed = bytearray(len(header) + len(source) + TAG_SIZE * chunks)
    sealed[: len(header)] = header
    out = memoryview(sealed)[len(header) :]
    for start in range(0, (chunks - 1) * CHUNK_SIZE, CHUNK_SIZE):
        out = out[sealer.seal_into(source[start : start + CHUNK_SIZE], out) :]
    sealer.seal_last_into(source[(chunks - 1) * CHUNK_SIZE :], out)
    return bytes(sealed)


def decrypt(data: BytesLike, identities: Sequence[Identity]) -> bytearray:
    """Return the plaintext of a whole binary age file.

    Nothing is returned unless all of it is authentic, from the first byte of the
    header to the end of the file.

    Raises:
        NoIdentityError: no identity fits.
        AgeError: the file is cut, altered or extended.
    """
    aead, payload = _open_header(data, identities)
    length = _plaintext_length(len(payload))
    plaintext = bytearray(length)
    out = memoryview(plaintext)
    final = _chunk_count(length) - 1
    for counter in range(final + 1):
        nonce = _nonce(counter, 1 if counter == final else 0)
        sealed = payload[counter * SEALED_SIZE : (counter + 1) * SEALED_SIZE]
        room = out[counter * CHUNK_SIZE : (counter + 1) * CHUNK_SIZE]
        try:
            _open(aead, nonce, sealed, room)
        except InvalidTag:
            raise _not_authentic(counter) from None
    return plaintext


def decrypt_chunks(data: BytesLike, identities: Sequence[Identity]) -> Iterator[bytes]:
    """Yield each chunk as soon as it is authentic.

    What was yielded before an error is authentic, but not known to be whole:
    only a normal end says that.

    Raises:
        NoIdentityError: no identity fits.
        AgeError: the file is cut, altered or extended.
    """
    aead, payload = _open_header(data, identities)
    counter, ended = 0, False
    while not ended:
        sealed, payload = payload[:SEALED_SIZE], payload[SEALED_SIZE:]
        if not sealed:
            raise AgeError(
                "the file is cut: its last chunk is missing", stage="payload"
            )
        chunk, ended = _open_either(aead, counter, sealed)
        if ended and counter and not chunk:
            raise AgeError("an empty last chunk after others", stage="payload")
        yield chunk
        counter += 1
    if payload:
        raise AgeError("something stands after the last chunk", stage="payload")


def _open_either(
    aead: ChaCha20Poly1305, counter: int, sealed: memoryview
) -> tuple[bytes, bool]:
    """Return a chunk and whether it says that it is the last."""
    if len(sealed) == SEALED_SIZE:
        try:
            return aead.decrypt(_nonce(counter, 0), sealed, None), False
        except InvalidTag:
            pass  # A full chunk may be the last one as well.
    try:
        return aead.decrypt(_nonce(counter, 1), sealed, None), True
    except InvalidTag:
        raise _not_authentic(counter) from None


def _not_authentic(counter: int) -> AgeError:
    return AgeError(
        f"the file was cut, altered or extended at its chunk: {counter}",
        stage="payload",
    )


class SealedFile:
    """A binary age file that is read in any order, chunk by chunk.

    What is returned is authentic and lies where it should: each chunk's number is in
    its nonce, and the last one says that it is the last. That it is this file and no
    other sealed to the same recipient is for the caller to know.

    Args:
        read: returns bytes of the file: (offset, length).
        size: bytes of the file.
        identities: of which one must fit.

    Attributes:
        length: bytes of the plaintext.

    Raises:
        NoIdentityError: no identity fits.
        AgeError: the file is cut or altered.
    """

    _HEAD = 4096

    def __init__(
        self,
        read: Callable[[int, int], bytes],
        size: int,
        identities: Sequence[Identity],
    ) -> None:
        self._read = read
        head = read(0, min(size, self._HEAD))
        self._aead, payload = _open_header(head, identities)
        self._start = len(head) - len(payload)
        self._size = size
        self.length = _plaintext_length(size - self._start)
        self._final = _chunk_count(self.length) - 1
        self._kept: tuple[int, bytes] = (-1, b"")
        self._kept = (self._final, self._chunks(self._final, self._final))

    def read(self, offset: int, length: int) -> bytes:
        """Return plaintext; fewer bytes only where the file ends.

        Raises:
            AgeError: a chunk is cut or altered.
        """
        end = min(offset + length, self.length)
        if offset >= end:
            return b""
        first, last = offset // CHUNK_SIZE, (end - 1) // CHUNK_SIZE
        plain = self._chunks(first, last)
        skip = offset - first * CHUNK_SIZE
        return plain[skip : skip + end - offset]

    def _chunks(self, first: int, last: int) -> bytes:
        """Open chunks that lie together; the last one opened is kept."""
        if first == last == self._kept[0]:
            return self._kept[1]
        start = self._start + first * SEALED_SIZE
        end = min(self._size, self._start + (last + 1) * SEALED_SIZE)
        sealed = memoryview(self._read(start, end - start))
        parts = []
        for number in range(first, last + 1):
            piece = sealed[(number - first) * SEALED_SIZE :][:SEALED_SIZE]
            nonce = _nonce(number, 1 if number == self._final else 0)
            try:
                parts.append(self._aead.decrypt(nonce, piece, None))
            except InvalidTag:
                raise _not_authentic(number) from None
        self._kept = (last, parts[-1])
        return b"".join(parts)
