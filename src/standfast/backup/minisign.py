"""Minisign keys and signatures: Ed25519 with a signed comment.

Source: the format of the program `minisign`, 0.11. A signature file is four
lines: an untrusted comment, the signature, a trusted comment, and a second
signature over the first one and the trusted comment. Parsing is strict: no
byte is free but the untrusted comment's text. Assumes that secret keys are
protected by the file system: keys encrypted with a password are refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import unicodedata
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from standfast.errors import DamagedError, NotTrustedError, UsageError

UNTRUSTED_PREFIX = "untrusted comment: "
TRUSTED_PREFIX = "trusted comment: "
DEFAULT_UNTRUSTED = "signature from standfast"
"""The untrusted comment of our own signatures: fixed, so that a verifier of our
files may compare it and leave no byte of them free."""

# Lengths in bytes. Integers are little-endian.
_KEY_ID_SIZE = 8
_ED25519_SIZE = 32  # a public key, or a seed
_SIGNATURE_SIZE = 64
_CHECKSUM_SIZE = 32
_PUBLIC_SIZE = 2 + _KEY_ID_SIZE + _ED25519_SIZE
_SIGNED_SIZE = 2 + _KEY_ID_SIZE + _SIGNATURE_SIZE

_ED = b"Ed"  # a key; a signature over the message itself (minisign's legacy)
_PREHASHED = b"ED"  # a signature over the message's BLAKE2b-512
_NO_KDF = b"\0\0"
_CHECKSUM_KIND = b"B2"  # BLAKE2b-256
# Salt, and two limits of the key derivation that an unencrypted key has not.
_KDF_SIZE = 32 + 8 + 8
_SECRET_HEAD = _ED + _NO_KDF + _CHECKSUM_KIND
_SECRET_SIZE = (
    len(_SECRET_HEAD) + _KDF_SIZE + _KEY_ID_SIZE + 2 * _ED25519_SIZE + _CHECKSUM_SIZE
)

# What the program reads into; its buffers count the prefix and a final NUL.
_UNTRUSTED_MAX = 1024 - len(UNTRUSTED_PREFIX) - 2
_TRUSTED_MAX = 8192 - len(TRUSTED_PREFIX) - 2


def _key_id_text(key_id: bytes) -> str:
    return f"{int.from_bytes(key_id, 'little'):016X}"


def _decode(line: str, size: int) -> bytes:
    """Return the bytes of canonical, padded base64.

    Raises:
        ValueError: it is not that, or not of that size.
    """
    data = binascii.a2b_base64(line.encode("ascii"), strict_mode=True)
    if len(data) != size or _encode(data) != line:
        raise ValueError("not canonical base64 of the right size")
    return data


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _prehash(message: bytes) -> bytes:
    return hashlib.blake2b(message).digest()


def _has_control(text: str) -> bool:
    """Return whether text could move a cursor or fail to be encoded.

    A tab is fine: the program's own default comment has one.
    """
    # What prints as it stands has none, and that is asked quickly.
    return not text.isprintable() and any(
        unicodedata.category(char) in {"Cc", "Cs"} for char in text if char != "\t"
    )


def _check_comment(text: str, limit: int) -> None:
    if _has_control(text) or not text.replace("\t", " ").isprintable():
        raise UsageError("a signature's comment is not one printable line")
    if len(text.encode()) > limit:
        raise UsageError(f"a signature's comment is longer than: {limit} bytes")


# --- signatures -------------------------------------------------------------
#
#   untrusted comment: TEXT LF
#   base64(KIND || key id || signature) LF      KIND is Ed or ED; 2 + 8 + 64 bytes
#   trusted comment: TEXT LF
#   base64(global signature) LF                 of signature || trusted TEXT


@dataclass(frozen=True)
class Signature:
    """A parsed signature file; nothing in it is verified yet.

    Attributes:
        prehashed: whether it is over the message's BLAKE2b-512.
        key: the signing key's identifier, 8 bytes as stored.
        signature: 64 bytes over the message or its hash.
        global_signature: 64 bytes over `signature` and the trusted comment.
        trusted_comment: to be believed only when `PublicKey.verify` returns it.
        untrusted_comment: never to be believed.
    """

    prehashed: bool
    key: bytes
    signature: bytes
    global_signature: bytes
    trusted_comment: str
    untrusted_comment: str

    @property
    def key_id(self) -> str:
        """The key's identifier as minisign prints it: 16 upper-case hex digits."""
        return _key_id_text(self.key)

    @classmethod
    def parse(cls, text: str | bytes) -> Signature:
        """Return the signature that a `.minisig` file holds.

        Raises:
            DamagedError: it is not exactly such a file.
        """
        try:
            return cls._parse(text if isinstance(text, str) else text.decode())
        except ValueError as error:
            raise DamagedError(f"malformed signature file: {error}") from None

    @classmethod
    def _parse(cls, text: str) -> Signature:
        lines = text.split("\n")
        if len(lines) != len(("comment", "signed", "trusted", "global", "")):
            raise ValueError("not four lines")
        if lines.pop():
            raise ValueError("no newline at the end")
        untrusted, signed_line, trusted, global_line = lines
        if not untrusted.startswith(UNTRUSTED_PREFIX):
            raise ValueError("no untrusted comment")
        if not trusted.startswith(TRUSTED_PREFIX):
            raise ValueError("no trusted comment")
        if _has_control(untrusted) or _has_control(trusted):
            raise ValueError("a control character in a comment")
        signed = _decode(signed_line, _SIGNED_SIZE)
        if signed[:2] not in {_ED, _PREHASHED}:
            raise ValueError("unknown kind of signature")
        return cls(
            prehashed=signed[:2] == _PREHASHED,
            key=signed[2 : 2 + _KEY_ID_SIZE],
            signature=signed[2 + _KEY_ID_SIZE :],
            global_signature=_decode(global_line, _SIGNATURE_SIZE),
            trusted_comment=trusted.removeprefix(TRUSTED_PREFIX),
            untrusted_comment=untrusted.removeprefix(UNTRUSTED_PREFIX),
        )

    def to_text(self) -> str:
        """Return the file's text; parsing and this are each other's inverse."""
        kind = _PREHASHED if self.prehashed else _ED
        lines = (
            UNTRUSTED_PREFIX + self.untrusted_comment,
            _encode(kind + self.key + self.signature),
            TRUSTED_PREFIX + self.trusted_comment,
            _encode(self.global_signature),
        )
        return "".join(line + "\n" for line in lines)


# --- keys -------------------------------------------------------------------


def _key_line(text: str) -> str:
    """Return the base64 line of a key file, or of a bare key."""
    lines = text.strip().splitlines()
    if lines and lines[0].startswith(UNTRUSTED_PREFIX.rstrip()):
        lines = lines[1:]
    if len(lines) != 1:
        raise ValueError("not one line of key")
    return lines[0].strip()


@dataclass(frozen=True)
class PublicKey:
    """A key that verifies; hashable, so that pinned keys may form a set.

    Attributes:
        key: the identifier, 8 bytes as stored; random, and chosen by the signer.
        public: the Ed25519 key, 32 bytes.
    """

    key: bytes
    public: bytes

    @property
    def key_id(self) -> str:
        """The identifier as minisign prints it: 16 upper-case hex digits."""
        return _key_id_text(self.key)

    @property
    def text(self) -> str:
        """The key on one line, `RW...`."""
        return _encode(_ED + self.key + self.public)

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Return the key of a bare `RW...` or a two-line `.pub` file.

        Raises:
            UsageError: it is neither.
        """
        try:
            data = _decode(_key_line(text), _PUBLIC_SIZE)
        except ValueError:
            data = b""
        if not data.startswith(_ED):
            raise UsageError(
                "not a minisign public key",
                hint="give the line that starts with RW, or the .pub file",
            )
        return cls(data[2 : 2 + _KEY_ID_SIZE], data[2 + _KEY_ID_SIZE :])

    def to_file_text(self) -> str:
        """Return what `minisign -G` writes as the `.pub` file."""
        return f"{UNTRUSTED_PREFIX}minisign public key {self.key_id}\n{self.text}\n"

    def verify(self, message: bytes, signature: Signature) -> str:
        """Return the trusted comment, now to be believed.

        Raises:
            NotTrustedError: another key made the signature, or the message, the
                signature or the trusted comment is not what was signed.
        """
        if signature.key != self.key:
            raise NotTrustedError(
                f"signed by another key: {signature.key_id}",
                hint=f"the key that was expected is {self.key_id}",
            )
        signed = _prehash(message) if signature.prehashed else message
        comment = signature.trusted_comment.encode()
        self._check(signature.signature, signed, "the signature is wrong")
        self._check(
            signature.global_signature,
            signature.signature + comment,
            "the signature's trusted comment was altered",
        )
        return signature.trusted_comment

    def _check(self, signature: bytes, signed: bytes, otherwise: str) -> None:
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, signed)
        except (InvalidSignature, ValueError):
            raise NotTrustedError(otherwise) from None


# A secret key file is a comment line and one line of base64, 158 bytes:
#   Ed, kind of key derivation (2; zero for none), B2, salt (32) and limits (8, 8)
#   of the derivation, key id (8), seed (32) || public key (32), checksum (32).
# The checksum is BLAKE2b-256 of Ed || key id || seed || public key, and is
# left zero by the program where the key is not encrypted.


@dataclass(frozen=True)
class SecretKey:
    """A key that signs.

    Attributes:
        key: the identifier, 8 bytes as stored.
        seed: the Ed25519 seed, 32 bytes.
    """

    key: bytes
    seed: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> SecretKey:
        """Return a new key with a random identifier."""
        return cls(os.urandom(_KEY_ID_SIZE), os.urandom(_ED25519_SIZE))

    @classmethod
    def parse(cls, text: str) -> SecretKey:
        """Return the key of an unencrypted secret key file.

        Raises:
            UsageError: it is encrypted, or no such file. It is not repeated.
            DamagedError: its two halves or its checksum do not agree.
        """
        try:
            data = _decode(_key_line(text), _SECRET_SIZE)
        except ValueError:
            raise _not_secret() from None
        if not data.startswith(_ED) or data[4:6] != _CHECKSUM_KIND:
            raise _not_secret()
        if data[2:4] != _NO_KDF:
            raise UsageError(
                "the minisign secret key is encrypted with a password",
                hint="take the password off with `minisign -C -W`",
            )
        body = data[len(_SECRET_HEAD) + _KDF_SIZE :]
        pair, checksum = body[:-_CHECKSUM_SIZE], body[-_CHECKSUM_SIZE:]
        secret = cls(
            pair[:_KEY_ID_SIZE], pair[_KEY_ID_SIZE : _KEY_ID_SIZE + _ED25519_SIZE]
        )
        if not hmac.compare_digest(pair, secret._pair()):
            raise DamagedError("the minisign secret key's two halves do not agree")
        if checksum not in {bytes(_CHECKSUM_SIZE), _checksum(pair)}:
            raise DamagedError("the minisign secret key's checksum is wrong")
        return secret

    @property
    def public(self) -> PublicKey:
        """The key that verifies what this one signs."""
        key = Ed25519PrivateKey.from_private_bytes(self.seed).public_key()
        return PublicKey(self.key, key.public_bytes_raw())

    def to_text(self) -> str:
        """Return the file's text as `minisign -G -W` writes it, comment apart."""
        data = _SECRET_HEAD + bytes(_KDF_SIZE) + self._pair() + bytes(_CHECKSUM_SIZE)
        return f"{UNTRUSTED_PREFIX}minisign secret key, unencrypted\n{_encode(data)}\n"

    def sign(
        self,
        message: bytes,
        trusted_comment: str,
        untrusted_comment: str = DEFAULT_UNTRUSTED,
    ) -> str:
        """Return the text of a prehashed signature file.

        Args:
            message: what to sign.
            trusted_comment: one printable line, signed as well.
            untrusted_comment: one printable line that anyone may alter.

        Raises:
            UsageError: a comment is not one printable line, or too long.
        """
        _check_comment(trusted_comment, _TRUSTED_MAX)
        _check_comment(untrusted_comment, _UNTRUSTED_MAX)
        key = Ed25519PrivateKey.from_private_bytes(self.seed)
        signature = key.sign(_prehash(message))
        return Signature(
            prehashed=True,
            key=self.key,
            signature=signature,
            global_signature=key.sign(signature + trusted_comment.encode()),
            trusted_comment=trusted_comment,
            untrusted_comment=untrusted_comment,
        ).to_text()

    def _pair(self) -> bytes:
        return self.key + self.seed + self.public.public


def _checksum(pair: bytes) -> bytes:
    return hashlib.blake2b(_ED + pair, digest_size=_CHECKSUM_SIZE).digest()


def _not_secret() -> UsageError:
    return UsageError(
        "not a minisign secret key",
        hint="give the file that `minisign -G -W` wrote",
    )
