"""Raw encrypted sends: keys, blocks and bonus buffers; real streams of OpenZFS."""

from __future__ import annotations

import bz2
import hashlib
import hmac
import os
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from conftest import sample
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM
from hypothesis import given
from hypothesis import strategies as st

from standfast.errors import NoIdentityError, StreamError
from standfast.zfs.sealed import KeyData, is_encrypted, key_data, unlock

if TYPE_CHECKING:
    from collections.abc import Iterator

SUITES = {3: (16, "ccm"), 4: (24, "ccm"), 5: (32, "ccm")}
SUITES |= {6: (16, "gcm"), 7: (24, "gcm"), 8: (32, "gcm")}
SA_MAGIC = bytes.fromhex("5a502f00")


def aead(suite: int, key: bytes) -> Any:
    return AESGCM(key) if SUITES[suite][1] == "gcm" else AESCCM(key)


def wrap(suite: int, version: int, form: int, secret: bytes, master: bytes) -> KeyData:
    """Wrap a master key as dsl_crypt.c does; an independent writing of the format."""
    size = SUITES[suite][0]
    salt, guid, iv = 0x1122334455667788, 0xA1B2C3D4, os.urandom(12)
    if form == 3:
        key = hashlib.pbkdf2_hmac("sha1", secret, struct.pack("<Q", salt), 1000, 32)
    else:
        key = bytes.fromhex(secret.decode()) if form == 2 else secret
    bound = struct.pack("<Q", guid)
    if version:
        bound += struct.pack("<QQ", suite, version)
    sealed = aead(suite, key[:size]).encrypt(iv, master + bytes(range(64)), bound)
    wrapped, hmac, mac = sealed[:size], sealed[size:-16], sealed[-16:]
    # On disk the field is 32 bytes long whatever the suite.
    filled = wrapped.ljust(32, b"\0")
    return KeyData(
        suite,
        guid,
        version,
        filled,
        hmac,
        iv,
        mac,
        form,
        1000 if form == 3 else 0,
        salt,
    )


def block_key(master: bytes, salt: bytes, size: int) -> bytes:
    """HKDF-SHA512 by hand (RFC 5869), without the library's own."""
    pseudo = hmac.new(bytes(64), master, "sha512").digest()
    return hmac.new(pseudo, salt + b"\x01", "sha512").digest()[:size]


SECRETS = st.sampled_from(
    [
        (1, bytes(range(32))),
        (2, b"ab" * 32),
        (3, b"correct horse"),
        (3, "käse".encode()),
    ]
)


@given(
    suite=st.sampled_from(sorted(SUITES)),
    version=st.integers(0, 1),
    secret=SECRETS,
    parts=st.lists(st.binary(min_size=1, max_size=80), min_size=1, max_size=5),
)
def test_what_was_sealed_opens(
    suite: int, version: int, secret: tuple[int, bytes], parts: list[bytes]
) -> None:
    size = SUITES[suite][0]
    master, salt, iv = os.urandom(size), os.urandom(8), os.urandom(12)
    data = wrap(suite, version, *secret, master)
    given_secret = secret[1] + (b"\n" if secret[0] > 1 else b"")
    keys = unlock(data, given_secret)
    plain = b"".join(parts)
    sealed = aead(suite, block_key(master, salt, size)).encrypt(iv, plain, None)
    assert plain == keys.block(salt, iv, sealed[-16:], sealed[:-16])
    # The same bytes, as the bonus buffers of a block of dnodes.
    pieces, at = [], 0
    for part in parts:
        pieces.append(sealed[at : at + len(part)])
        at += len(part)
    assert parts == keys.bonuses(salt, iv, pieces)
    assert repr(keys) == f"Unlocked({SUITES[suite][1]}, {size * 8})"


@given(
    field=st.sampled_from(["guid", "master", "hmac", "iv", "mac", "salt", "rounds"]),
    secret=st.sampled_from([b"correct horse", b"wrong"]),
)
def test_another_secret_or_altered_keys_open_nothing(field: str, secret: bytes) -> None:
    data = wrap(8, 1, 3, b"correct horse", bytes(32))
    if secret != b"wrong":
        value = getattr(data, field)
        other = (
            value + 1 if isinstance(value, int) else bytes([value[0] ^ 1]) + value[1:]
        )
        changes: dict[str, Any] = {field: other}
        data = replace(data, **changes)
    with pytest.raises(NoIdentityError, match="does not open"):
        unlock(data, secret)


@pytest.mark.parametrize(
    ("form", "secret", "words"),
    [(1, b"short", "32 bytes"), (2, b"zz", "64 hex"), (2, b"ab" * 31, "64 hex")],
)
def test_a_secret_of_the_wrong_form(form: int, secret: bytes, words: str) -> None:
    good = bytes(32) if form == 1 else b"00" * 32
    with pytest.raises(NoIdentityError, match=words):
        unlock(wrap(8, 1, form, good, bytes(32)), secret)


def test_an_altered_block_is_refused() -> None:
    keys = unlock(wrap(8, 1, 3, b"x" * 8, bytes(32)), b"x" * 8)
    sealed = AESGCM(block_key(bytes(32), b"saltsalt", 32)).encrypt(
        bytes(12), b"data", b""
    )
    assert b"data" == keys.block(b"saltsalt", bytes(12), sealed[-16:], sealed[:-16])
    for place in range(len(sealed)):
        bad = bytearray(sealed)
        bad[place] ^= 1
        with pytest.raises(StreamError, match="altered"):
            keys.block(b"saltsalt", bytes(12), bytes(bad[-16:]), bytes(bad[:-16]))


def test_which_types_are_encrypted() -> None:
    assert is_encrypted(19)  # contents of files
    assert is_encrypted(20)  # folders
    assert not is_encrypted(21)  # the master node
    assert is_encrypted(0x80 | 0x40 | 0x20)
    assert not is_encrypted(0x80 | 0x40)


def walk(stream: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield (kind, header, payload) of a little-endian raw stream."""
    at = 0
    while at < len(stream):
        kind, length = struct.unpack_from("<II", stream, at)
        head = stream[at : at + 312]
        size = {
            0: length,
            1: struct.unpack_from("<I", head, 36)[0] or -(-head[28] // 8) * 8,
            3: struct.unpack_from("<Q", head, 96)[0],
            7: struct.unpack_from("<Q", head, 40)[0],
        }.get(kind, 0)
        yield kind, head, stream[at + 312 : at + 312 + size]
        at += 312 + size


@pytest.mark.parametrize(
    ("names", "secret"),
    [
        (("explore", "encrypted-raw-s1.zfs"), b"zfs-send-fixture-passphrase"),
        (("openzfs", "decompress-crypt.zsend.bz2"), b"password\n"),
    ],
)
def test_real_raw_streams_open(names: tuple[str, str], secret: bytes) -> None:
    stream = sample("streams", *names).read_bytes()
    if names[1].endswith("bz2"):
        stream = bz2.decompress(stream)
    blocks = 0
    pending: list[bytes] = []
    opened: list[bytes] = []
    records = list(walk(stream))
    data = key_data(records[0][2])
    assert data is not None
    assert data.wants == "passphrase"
    keys = unlock(data, secret)
    where = (b"", b"")
    for kind, head, payload in [*records, (9, bytes(312), b"")]:
        if kind == 9:
            opened += keys.bonuses(*where, pending) if pending else []
            pending, where = [], (head[32:40], head[40:52])
        elif kind == 1 and is_encrypted(struct.unpack_from("<I", head, 20)[0]):
            pending += [payload] if struct.unpack_from("<I", head, 28)[0] else []
        elif kind == 3 and is_encrypted(struct.unpack_from("<I", head, 16)[0]):
            keys.block(head[104:112], head[112:124], head[124:140], payload)
            blocks += 1
    assert blocks >= 8
    assert len(opened) >= 3
    assert {SA_MAGIC} == {bonus[:4] for bonus in opened}


def test_hostile_keys_are_refused() -> None:
    good = wrap(8, 1, 3, b"x" * 8, bytes(32))
    assert key_data(b"") is None
    names = {
        "DSL_CRYPTO_SUITE": good.suite,
        "DSL_CRYPTO_GUID": good.guid,
        "DSL_CRYPTO_VERSION": 1,
        "DSL_CRYPTO_MASTER_KEY_1": good.master,
        "DSL_CRYPTO_HMAC_KEY_1": good.hmac,
        "DSL_CRYPTO_IV": good.iv,
        "DSL_CRYPTO_MAC": good.mac,
        "keyformat": 3,
        "pbkdf2iters": 1000,
        "pbkdf2salt": good.salt,
    }
    assert good == key_data(packed(names))
    for name, value in (
        ("DSL_CRYPTO_SUITE", 99),
        ("DSL_CRYPTO_VERSION", 7),
        ("DSL_CRYPTO_IV", b""),
        ("DSL_CRYPTO_MAC", bytes(15)),
        ("DSL_CRYPTO_MASTER_KEY_1", b""),
        ("DSL_CRYPTO_HMAC_KEY_1", bytes(63)),
        ("pbkdf2iters", 1 << 60),
    ):
        with pytest.raises(StreamError):
            key_data(packed(names | {name: value}))
    for name in ("DSL_CRYPTO_SUITE", "keyformat", "DSL_CRYPTO_MAC"):
        with pytest.raises(StreamError):
            key_data(packed({k: v for k, v in names.items() if k != name}))


def packed(names: dict[str, Any]) -> bytes:
    """Write a native little-endian list that holds ``crypt_keydata``."""
    return bytes((0, 1, 0, 0)) + struct.pack("<iI", 0, 1) + pair(
        "crypt_keydata", 19, bytes(24)
    ) + b"".join(
        pair(k, 8, struct.pack("<Q", v)) if isinstance(v, int) else pair(k, 26, v)
        for k, v in names.items()
    ) + bytes(8)  # fmt: skip


def pair(name: str, kind: int, value: bytes) -> bytes:
    count = len(value) if kind == 26 else 1
    word = name.encode() + b"\0"
    head = -(-(16 + len(word)) // 8) * 8
    size = head + -(-len(value) // 8) * 8
    text = struct.pack("<ihhii", size, len(word), 0, count, kind) + word
    return text.ljust(head, b"\0") + value.ljust(size - head, b"\0")
