"""Raw sends of encrypted datasets: unlocking with the dataset's key, opening blocks.

A raw stream (``zfs send -w``) carries blocks as they lie on disk, and in the payload
of its BEGIN record the dataset's keys, wrapped. With the passphrase or key that ``zfs
load-key`` would want, both open without ZFS. Sources: module/os/linux/zfs/zio_crypt.c
and module/zfs/dsl_crypt.c of OpenZFS. Pure.

What is authentic: the keys, and each block of data or metadata (their tags are
checked). Bonus buffers are encrypted together with their dnodes under a tag that also
covers block pointers, which a stream does not have; they are decrypted without that
tag, and only the stream's own checksum and the backup's hashes cover them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from standfast.errors import NoIdentityError, StreamError
from standfast.zfs.nvlist import parse_nvlist

if TYPE_CHECKING:
    from collections.abc import Sequence

KEY_BYTES, IV_BYTES, MAC_BYTES, SALT_BYTES = 32, 12, 16, 8
# zio_encrypt: suite -> (key bytes, counter mode's kind).
_SUITES = {
    3: (16, "ccm"),
    4: (24, "ccm"),
    5: (32, "ccm"),
    6: (16, "gcm"),
    7: (24, "gcm"),
    8: (32, "gcm"),
}
_RAW, _HEX, _PASSPHRASE = 1, 2, 3
# dmu_ot[] of OpenZFS: the old object types that are encrypted, and the bit by which
# new-style ones say so.
_ENCRYPTED = frozenset(
    {9, 10, 18, 19, 20, 22, 23, 25, 26, 33, 34, 35, 39, 40, 44, 45, 46, 47, 49}
)
_NEW_TYPE, _NEW_ENCRYPTED = 0x80, 0x20
# PBKDF2 of a hostile stream must not run for ever; zfs itself makes 350,000 rounds.
MOST_ROUNDS = 50_000_000


@dataclass(frozen=True)
class KeyData:
    """``crypt_keydata``: the wrapped keys of an encrypted dataset.

    Attributes:
        suite: algorithm, 3 to 8.
        guid: of the key.
        version: of this form; 0 covers less by the tag.
        master: wrapped master key.
        hmac: wrapped HMAC key, 64 bytes.
        iv: of the wrapping.
        mac: of the wrapping.
        form: what the user's secret is: 1 32 raw bytes, 2 64 hex digits, 3 text.
        rounds: of PBKDF2, for text.
        salt: of PBKDF2, 64 bits.
    """

    suite: int
    guid: int
    version: int
    master: bytes
    hmac: bytes
    iv: bytes
    mac: bytes
    form: int
    rounds: int
    salt: int

    @property
    def wants(self) -> str:
        """What opens it, in words."""
        words = {_RAW: "key of 32 bytes", _HEX: "key of 64 hex digits"}
        return words.get(self.form, "passphrase")


def is_encrypted(kind: int) -> bool:
    """Return whether blocks of an object type are encrypted in a raw stream."""
    if kind & _NEW_TYPE:
        return bool(kind & _NEW_ENCRYPTED)
    return kind in _ENCRYPTED


def key_data(payload: bytes) -> KeyData | None:
    """Return the keys in the payload of a BEGIN record, or None if it has none.

    Raises:
        StreamError: they are there but cannot be.
    """
    if not payload:
        return None
    found: Any = parse_nvlist(payload).get("crypt_keydata")
    if not isinstance(found, dict):
        return None
    try:
        data = KeyData(
            suite=_number(found["DSL_CRYPTO_SUITE"]),
            guid=_number(found["DSL_CRYPTO_GUID"]),
            version=_number(found.get("DSL_CRYPTO_VERSION", 0)),
            master=bytes(found["DSL_CRYPTO_MASTER_KEY_1"]),
            hmac=bytes(found["DSL_CRYPTO_HMAC_KEY_1"]),
            iv=bytes(found["DSL_CRYPTO_IV"]),
            mac=bytes(found["DSL_CRYPTO_MAC"]),
            form=_number(found["keyformat"]),
            rounds=_number(found.get("pbkdf2iters", 0)),
            salt=_number(found.get("pbkdf2salt", 0)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StreamError(
            f"the stream's encryption keys are not whole: {error}"
        ) from None
    _check(data)
    return data


def _number(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise ValueError(f"{value!r} is no number")
    return value


def _check(data: KeyData) -> None:
    if data.suite not in _SUITES or data.version > 1:
        raise StreamError(f"the stream is encrypted in an unknown way ({data.suite})")
    sizes = (len(data.master), len(data.hmac), len(data.iv), len(data.mac))
    if sizes[0] < _SUITES[data.suite][0] or sizes[1:] != (64, IV_BYTES, MAC_BYTES):
        raise StreamError("the stream's encryption keys are not whole")
    if data.rounds > MOST_ROUNDS:
        raise StreamError(f"its passphrase would take {data.rounds} rounds to try")


@lru_cache(maxsize=32)
def unlock(data: KeyData, secret: bytes) -> Unlocked:
    """Open the dataset's keys; a passphrase takes a while, so answers are kept.

    Args:
        data: the wrapped keys.
        secret: what ``zfs load-key`` would be given: the passphrase, the 64 hex
            digits, or the 32 raw bytes; one line end after text is ignored.

    Raises:
        NoIdentityError: the secret is not the right one.
    """
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - slow to import

    size, mode = _SUITES[data.suite]
    bound = data.guid.to_bytes(8, "little")
    if data.version:
        bound += data.suite.to_bytes(8, "little") + data.version.to_bytes(8, "little")
    cipher = _aead(mode, _wrapping_key(data, secret)[:size])
    wrapped = data.master[:size] + data.hmac + data.mac
    try:
        keys = cipher.decrypt(data.iv, wrapped, bound)
    except InvalidTag:
        raise NoIdentityError(
            f"the {data.wants} given does not open the encrypted dataset"
        ) from None
    return Unlocked(mode, size, keys[:size])


class Unlocked:
    """The keys of an encrypted dataset, open."""

    def __init__(self, mode: str, size: int, master: bytes) -> None:
        self._mode = mode
        self._size = size
        self._master = master
        self._keys: dict[bytes, bytes] = {}

    def __repr__(self) -> str:
        return f"Unlocked({self._mode}, {self._size * 8})"

    def block(self, salt: bytes, iv: bytes, mac: bytes, data: bytes) -> bytes:
        """Return a block's stored bytes, decrypted; they may be compressed still.

        Raises:
            StreamError: it was altered, or belongs to another dataset.
        """
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415

        cipher = _aead(self._mode, self._key(salt))
        try:
            plain: bytes = cipher.decrypt(iv, data + mac, None)
        except (InvalidTag, OverflowError):
            raise StreamError(
                "an encrypted block was altered: its tag is wrong"
            ) from None
        return plain

    def bonuses(self, salt: bytes, iv: bytes, sealed: Sequence[bytes]) -> list[bytes]:
        """Return the bonus buffers of one block of dnodes.

        They are one message: all encrypted bonuses of the block in the order of
        their objects, none left out. Nothing here tells whether they were altered.
        """
        from cryptography.hazmat.primitives.ciphers import (  # noqa: PLC0415
            Cipher,
            algorithms,
            modes,
        )

        # The first counter block that encrypts data: NIST SP 800-38D 7.1 for GCM,
        # SP 800-38C A.3 for CCM with a nonce of 12 bytes.
        first = (
            iv + b"\0\0\0\x02" if self._mode == "gcm" else b"\x02" + iv + b"\0\0\x01"
        )
        aes = algorithms.AES(self._key(salt))
        stream = Cipher(aes, modes.CTR(first)).decryptor()
        return [stream.update(part) for part in sealed]

    def _key(self, salt: bytes) -> bytes:
        """Return the key for blocks of a salt (the kernel changes it now and then)."""
        if salt not in self._keys:
            from cryptography.hazmat.primitives.hashes import (  # noqa: PLC0415
                SHA512,
            )
            from cryptography.hazmat.primitives.kdf.hkdf import (  # noqa: PLC0415
                HKDF,
            )

            derive = HKDF(SHA512(), self._size, salt=None, info=salt)
            self._keys[salt] = derive.derive(self._master)
        return self._keys[salt]


def _wrapping_key(data: KeyData, secret: bytes) -> bytes:
    if data.form == _RAW:
        if len(secret) != KEY_BYTES:
            raise NoIdentityError(f"the dataset's key has 32 bytes, not {len(secret)}")
        return secret
    text = secret.removesuffix(b"\n").removesuffix(b"\r")
    if data.form == _HEX:
        try:
            key = bytes.fromhex(text.decode("ascii", "replace"))
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise NoIdentityError("the dataset's key is written as 64 hex digits")
        return key
    salt = data.salt.to_bytes(8, "little")
    return hashlib.pbkdf2_hmac("sha1", text, salt, max(1, data.rounds), KEY_BYTES)


def _aead(mode: str, key: bytes) -> Any:  # noqa: ANN401 - two classes of one shape
    from cryptography.hazmat.primitives.ciphers.aead import (  # noqa: PLC0415
        AESCCM,
        AESGCM,
    )

    return AESGCM(key) if mode == "gcm" else AESCCM(key)
