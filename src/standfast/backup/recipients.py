"""Who can open an age file: recipients and identities.

X25519, the post-quantum hybrid, ssh-ed25519, ssh-rsa and passphrases, each as
the age specification and the reference program define them; the ssh kinds are
the reference's own. What people write and keep in files is read by ``keyfiles``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from standfast.backup import age, bech32
from standfast.backup.age import AgeError, Stanza
from standfast.errors import StandfastError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cryptography.hazmat.primitives import hpke


X25519_KIND = "X25519"
HYBRID_KIND = "mlkem768x25519"
SSH_ED25519_KIND = "ssh-ed25519"
SSH_RSA_KIND = "ssh-rsa"

_X25519_INFO = b"age-encryption.org/v1/X25519"
_HYBRID_INFO = b"age-encryption.org/mlkem768x25519"
_SSH_ED25519_INFO = b"age-encryption.org/v1/ssh-ed25519"
_SSH_RSA_LABEL = b"age-encryption.org/v1/ssh-rsa"
_SCRYPT_INFO = b"age-encryption.org/v1/scrypt"

RECIPIENT_HRP = "age"
IDENTITY_HRP = "AGE-SECRET-KEY-"
HYBRID_RECIPIENT_HRP = "age1pq"
HYBRID_IDENTITY_HRP = "AGE-SECRET-KEY-PQ-"

KEY_SIZE = 32  # X25519 keys and shares, Ed25519 keys, hybrid seeds
_WRAPPED_SIZE = age.FILE_KEY_SIZE + age.TAG_SIZE
_MLKEM_PUBLIC_SIZE = 1184  # FIPS 203, ML-KEM-768
_MLKEM_CIPHERTEXT_SIZE = 1088
_MLKEM_SEED_SIZE = 64
HYBRID_PUBLIC_SIZE = _MLKEM_PUBLIC_SIZE + KEY_SIZE
_HYBRID_ENC_SIZE = _MLKEM_CIPHERTEXT_SIZE + KEY_SIZE
RSA_MIN_BITS = 2048
_SALT_SIZE = 16
_LOG_N_MAX = 30  # a tebibyte of memory: more is surely a mistake
_LOG_N = re.compile(r"[1-9][0-9]*")

# Every wrapping key is used once, so the nonce can be fixed.
_WRAP_NONCE = bytes(12)


def _seal_key(wrap_key: bytes, file_key: bytes) -> bytes:
    return ChaCha20Poly1305(wrap_key).encrypt(_WRAP_NONCE, file_key, None)


def _open_key(wrap_key: bytes, body: bytes) -> bytes | None:
    try:
        return ChaCha20Poly1305(wrap_key).decrypt(_WRAP_NONCE, body, None)
    except InvalidTag:
        return None


def _of_kind(stanzas: Sequence[Stanza], kind: str, args: int) -> Iterator[Stanza]:
    """Yield the stanzas of that kind, each with its number of arguments checked."""
    for stanza in stanzas:
        if stanza.kind != kind:
            continue
        if len(stanza.args) != args:
            raise _malformed(kind, "wrong number of arguments")
        yield stanza


def _argument(stanza: Stanza, place: int, size: int) -> bytes:
    try:
        data = age.decode_base64(stanza.args[place])
    except ValueError as error:
        raise _malformed(stanza.kind, str(error)) from None
    if len(data) != size:
        raise _malformed(stanza.kind, "an argument of the wrong length")
    return data


def _check_body(stanza: Stanza) -> None:
    # Checked before decryption: a body of another size could be opened by more
    # than one key, and would tell a sender which identities someone holds.
    if len(stanza.body) != _WRAPPED_SIZE:
        raise _malformed(stanza.kind, "a body of the wrong length")


def _malformed(kind: str, why: str) -> AgeError:
    return AgeError(f"malformed {kind} stanza: {why}", stage="header")


def _exchange(secret: bytes, public: bytes) -> bytes:
    """Return X25519(secret, public).

    Raises:
        ValueError: the result is all zero; the public value is of low order.
    """
    key = X25519PrivateKey.from_private_bytes(secret)
    return key.exchange(X25519PublicKey.from_public_bytes(public))


def _exchange_share(secret: bytes, share: bytes, kind: str) -> bytes:
    try:
        return _exchange(secret, share)
    except ValueError:
        raise _malformed(kind, "a share of low order") from None


def _exchange_recipient(secret: bytes, public: bytes) -> bytes:
    try:
        return _exchange(secret, public)
    except ValueError:
        raise UsageError("a recipient's key is of low order: nobody has it") from None


def _public_of(secret: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


# --- X25519 -----------------------------------------------------------------
#
# stanza: X25519 SHARE, body = sealed file key
#   share:  the ephemeral public key, X25519(ephemeral, 9)
#   shared: X25519(ephemeral, recipient), or X25519(identity, share); never zero
#   key:    HKDF(ikm = shared, salt = share || recipient, info)


@dataclass(frozen=True)
class X25519Recipient:
    """A native recipient, `age1...`; `public` is 32 bytes."""

    public: bytes

    @property
    def text(self) -> str:
        """The recipient as people pass it around."""
        return bech32.encode(RECIPIENT_HRP, self.public)

    def wrap(self, file_key: bytes) -> list[Stanza]:
        """Return one X25519 stanza."""
        ephemeral = os.urandom(KEY_SIZE)
        share = _public_of(ephemeral)
        shared = _exchange_recipient(ephemeral, self.public)
        key = age.hkdf(shared, salt=share + self.public, info=_X25519_INFO)
        body = _seal_key(key, file_key)
        return [Stanza(X25519_KIND, (age.encode_base64(share),), body)]


@dataclass(frozen=True)
class X25519Identity:
    """A native identity, `AGE-SECRET-KEY-1...`; `secret` is 32 bytes."""

    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> X25519Identity:
        """Return a new identity."""
        return cls(os.urandom(KEY_SIZE))

    @property
    def text(self) -> str:
        """The secret key as it stands in an identity file."""
        return bech32.encode(IDENTITY_HRP, self.secret)

    @property
    def recipient(self) -> X25519Recipient:
        """The recipient that this identity opens files for."""
        return X25519Recipient(_public_of(self.secret))

    def unwrap(self, stanzas: Sequence[Stanza]) -> bytes | None:
        """Return the file key from the first X25519 stanza that fits."""
        public = self.recipient.public
        for stanza in _of_kind(stanzas, X25519_KIND, 1):
            share = _argument(stanza, 0, KEY_SIZE)
            _check_body(stanza)
            shared = _exchange_share(self.secret, share, X25519_KIND)
            key = age.hkdf(shared, salt=share + public, info=_X25519_INFO)
            file_key = _open_key(key, stanza.body)
            if file_key is not None:
                return file_key
        return None


# --- hybrid -----------------------------------------------------------------
#
# stanza: mlkem768x25519 ENC, body = sealed file key
#   HPKE (RFC 9180), base mode, single shot: KEM MLKEM768-X25519 (X-Wing),
#   HKDF-SHA256, ChaCha20Poly1305, no associated data
#   recipient: ML-KEM-768 key (1184) || X25519 key (32)
#   ENC:       ML-KEM ciphertext (1088) || X25519 share (32)
#   identity:  seed (32); SHAKE256(seed) is ML-KEM seed (64) || X25519 secret (32)


@dataclass(frozen=True)
class HybridRecipient:
    """A post-quantum recipient, `age1pq1...`; `public` is 1216 bytes."""

    public: bytes

    @property
    def text(self) -> str:
        """The recipient as people pass it around: about 1950 characters."""
        return bech32.encode(HYBRID_RECIPIENT_HRP, self.public)

    def wrap(self, file_key: bytes) -> list[Stanza]:
        """Return one mlkem768x25519 stanza.

        Raises:
            UsageError: the installed `cryptography` has no ML-KEM, or the key
                is none.
        """
        sealed = _hybrid_seal(self.public, file_key)
        enc, body = sealed[:_HYBRID_ENC_SIZE], sealed[_HYBRID_ENC_SIZE:]
        return [Stanza(HYBRID_KIND, (age.encode_base64(enc),), body)]


@dataclass(frozen=True)
class HybridIdentity:
    """A post-quantum identity, `AGE-SECRET-KEY-PQ-1...`; `seed` is 32 bytes."""

    seed: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> HybridIdentity:
        """Return a new identity."""
        return cls(os.urandom(KEY_SIZE))

    @property
    def text(self) -> str:
        """The secret key as it stands in an identity file."""
        return bech32.encode(HYBRID_IDENTITY_HRP, self.seed)

    @property
    def recipient(self) -> HybridRecipient:
        """The recipient that this identity opens files for.

        Raises:
            UsageError: the installed `cryptography` has no ML-KEM.
        """
        mlkem_seed, secret = self._secrets()
        return HybridRecipient(_mlkem_public(mlkem_seed) + _public_of(secret))

    def unwrap(self, stanzas: Sequence[Stanza]) -> bytes | None:
        """Return the file key from the first mlkem768x25519 stanza that fits."""
        mlkem_seed, secret = self._secrets()
        for stanza in _of_kind(stanzas, HYBRID_KIND, 1):
            enc = _argument(stanza, 0, _HYBRID_ENC_SIZE)
            _check_body(stanza)
            # HPKE has one error for all that is wrong, but a share of low order
            # is no stanza for someone else: it must stop the reading.
            _exchange_share(secret, enc[_MLKEM_CIPHERTEXT_SIZE:], HYBRID_KIND)
            file_key = _hybrid_open(mlkem_seed, secret, enc + stanza.body)
            if file_key is not None:
                return file_key
        return None

    def _secrets(self) -> tuple[bytes, bytes]:
        expanded = hashlib.shake_256(self.seed).digest(_MLKEM_SEED_SIZE + KEY_SIZE)
        return expanded[:_MLKEM_SEED_SIZE], expanded[_MLKEM_SEED_SIZE:]


def _no_hybrid() -> UsageError:
    return UsageError(
        "the installed `cryptography` has no ML-KEM-768",
        hint="install a newer one, or use a classic key (age1... or ssh)",
    )


def _hybrid_suite() -> hpke.Suite:
    """Return the HPKE suite.

    Imported here, for the package runs on releases of `cryptography` without it.
    """
    try:
        from cryptography.hazmat.primitives import hpke  # noqa: PLC0415

        return hpke.Suite(
            hpke.KEM.MLKEM768_X25519,
            hpke.KDF.HKDF_SHA256,
            hpke.AEAD.CHACHA20_POLY1305,
        )
    except (ImportError, AttributeError, UnsupportedAlgorithm):
        raise _no_hybrid() from None


def _hybrid_seal(public: bytes, file_key: bytes) -> bytes:
    suite = _hybrid_suite()
    from cryptography.hazmat.primitives import hpke  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives.asymmetric import mlkem  # noqa: PLC0415

    try:
        key = hpke.MLKEM768X25519PublicKey(
            mlkem.MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC_SIZE]),
            X25519PublicKey.from_public_bytes(public[_MLKEM_PUBLIC_SIZE:]),
        )
        return suite.encrypt(file_key, key, _HYBRID_INFO)
    except UnsupportedAlgorithm:
        raise _no_hybrid() from None
    except ValueError:
        raise UsageError("a post-quantum recipient's key is none") from None


def _hybrid_open(mlkem_seed: bytes, secret: bytes, sealed: bytes) -> bytes | None:
    suite = _hybrid_suite()
    from cryptography.hazmat.primitives import hpke  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives.asymmetric import mlkem  # noqa: PLC0415

    try:
        key = hpke.MLKEM768X25519PrivateKey(
            mlkem.MLKEM768PrivateKey.from_seed_bytes(mlkem_seed),
            X25519PrivateKey.from_private_bytes(secret),
        )
        return suite.decrypt(sealed, key, _HYBRID_INFO)
    except UnsupportedAlgorithm:
        raise _no_hybrid() from None
    except InvalidTag:
        return None


def _mlkem_public(mlkem_seed: bytes) -> bytes:
    try:
        from cryptography.hazmat.primitives.asymmetric import mlkem  # noqa: PLC0415

        key = mlkem.MLKEM768PrivateKey.from_seed_bytes(mlkem_seed)
    except (ImportError, UnsupportedAlgorithm):
        raise _no_hybrid() from None
    return key.public_key().public_bytes_raw()


# --- ssh keys ---------------------------------------------------------------
#
# Both kinds start their arguments with TAG, 4 bytes of SHA-256 of the public
# key's ssh encoding (the middle field of a .pub line): the stanza tells whose it
# is, and only a stanza with our tag is looked at.
#
# stanza: ssh-ed25519 TAG SHARE, body = sealed file key
#   point:  the Ed25519 key as Montgomery u = (1 + y) / (1 - y) mod 2^255 - 19
#   secret: first half of SHA-512(seed), which X25519 clamps
#   tweak:  HKDF(ikm = empty, salt = ssh encoding, info)
#   shared: X25519(tweak, X25519(ephemeral, point)), or with (secret, share) inside
#   key:    HKDF(ikm = shared, salt = share || point, info)
#
# stanza: ssh-rsa TAG, body = RSAES-OAEP(SHA-256, MGF1 of it, label) of the file key


def ssh_blob(key: Ed25519PublicKey | RSAPublicKey) -> bytes:
    """Return a public key in ssh's wire encoding: the middle of a .pub line."""
    line = key.public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return binascii.a2b_base64(line.split(b" ")[1])


def _ssh_text(kind: str, blob: bytes) -> str:
    return f"{kind} {base64.b64encode(blob).decode('ascii')}"


def _ssh_tag(blob: bytes) -> str:
    return age.encode_base64(hashlib.sha256(blob).digest()[:4])


def _ssh_tweak(blob: bytes) -> bytes:
    return age.hkdf(b"", salt=blob, info=_SSH_ED25519_INFO)


def _for_us(stanzas: Sequence[Stanza], kind: str, blob: bytes) -> Iterator[Stanza]:
    args = {SSH_ED25519_KIND: 2, SSH_RSA_KIND: 1}[kind]
    for stanza in _of_kind(stanzas, kind, args):
        _argument(stanza, 0, 4)
        if stanza.args[0] == _ssh_tag(blob):
            yield stanza


def _not_unwrapped(kind: str) -> AgeError:
    # The tag says that the stanza is ours, so this is damage and no other key.
    return AgeError(f"the {kind} stanza for this key was altered", stage="header")


_P = 2**255 - 19


def _montgomery(ed25519: bytes) -> bytes:
    """Return the u coordinate of an Ed25519 public key (RFC 7748, 4.1)."""
    y = int.from_bytes(ed25519, "little") & (1 << 255) - 1
    if (1 - y) % _P == 0:
        raise UsageError("a recipient's ssh key is the neutral point: nobody has it")
    return ((1 + y) * pow(1 - y, -1, _P) % _P).to_bytes(KEY_SIZE, "little")


@dataclass(frozen=True)
class SshEd25519Recipient:
    """An `ssh-ed25519 AAAA...` key; `public` is the Ed25519 key's 32 bytes."""

    public: bytes

    @property
    def blob(self) -> bytes:
        """The key in ssh's own encoding."""
        return ssh_blob(Ed25519PublicKey.from_public_bytes(self.public))

    @property
    def text(self) -> str:
        """The public key's line, without a comment."""
        return _ssh_text(SSH_ED25519_KIND, self.blob)

    def wrap(self, file_key: bytes) -> list[Stanza]:
        """Return one ssh-ed25519 stanza."""
        blob, point = self.blob, _montgomery(self.public)
        ephemeral = os.urandom(KEY_SIZE)
        share = _public_of(ephemeral)
        shared = _exchange_recipient(ephemeral, point)
        shared = _exchange_recipient(_ssh_tweak(blob), shared)
        key = age.hkdf(shared, salt=share + point, info=_SSH_ED25519_INFO)
        args = (_ssh_tag(blob), age.encode_base64(share))
        return [Stanza(SSH_ED25519_KIND, args, _seal_key(key, file_key))]


@dataclass(frozen=True)
class SshEd25519Identity:
    """An ssh-ed25519 private key; `seed` is its 32 bytes."""

    seed: bytes = field(repr=False)

    @property
    def recipient(self) -> SshEd25519Recipient:
        """The recipient that this identity opens files for."""
        key = Ed25519PrivateKey.from_private_bytes(self.seed).public_key()
        return SshEd25519Recipient(key.public_bytes_raw())

    def unwrap(self, stanzas: Sequence[Stanza]) -> bytes | None:
        """Return the file key from the stanza with this key's tag."""
        recipient = self.recipient
        blob, point = recipient.blob, _montgomery(recipient.public)
        secret = hashlib.sha512(self.seed).digest()[:KEY_SIZE]
        for stanza in _for_us(stanzas, SSH_ED25519_KIND, blob):
            share = _argument(stanza, 1, KEY_SIZE)
            _check_body(stanza)
            shared = _exchange_share(secret, share, SSH_ED25519_KIND)
            shared = _exchange_share(_ssh_tweak(blob), shared, SSH_ED25519_KIND)
            key = age.hkdf(shared, salt=share + point, info=_SSH_ED25519_INFO)
            file_key = _open_key(key, stanza.body)
            if file_key is None:
                raise _not_unwrapped(SSH_ED25519_KIND)
            return file_key
        return None


def _oaep() -> padding.OAEP:
    sha256 = hashes.SHA256()
    return padding.OAEP(padding.MGF1(sha256), sha256, _SSH_RSA_LABEL)


@dataclass(frozen=True)
class SshRsaRecipient:
    """An `ssh-rsa AAAA...` key; `blob` is the key in ssh's own encoding."""

    blob: bytes

    @property
    def text(self) -> str:
        """The public key's line, without a comment."""
        return _ssh_text(SSH_RSA_KIND, self.blob)

    def wrap(self, file_key: bytes) -> list[Stanza]:
        """Return one ssh-rsa stanza."""
        key = serialization.load_ssh_public_key(self.text.encode("ascii"))
        if not isinstance(key, RSAPublicKey):
            raise UsageError("not an ssh-rsa key")
        body = key.encrypt(file_key, _oaep())
        return [Stanza(SSH_RSA_KIND, (_ssh_tag(self.blob),), body)]


@dataclass(frozen=True, eq=False)
class SshRsaIdentity:
    """An ssh-rsa private key."""

    key: RSAPrivateKey = field(repr=False)

    @property
    def recipient(self) -> SshRsaRecipient:
        """The recipient that this identity opens files for."""
        return SshRsaRecipient(ssh_blob(self.key.public_key()))

    def unwrap(self, stanzas: Sequence[Stanza]) -> bytes | None:
        """Return the file key from the stanza with this key's tag."""
        for stanza in _for_us(stanzas, SSH_RSA_KIND, self.recipient.blob):
            try:
                return self.key.decrypt(stanza.body, _oaep())
            except ValueError:
                raise _not_unwrapped(SSH_RSA_KIND) from None
        return None


# --- passphrases ------------------------------------------------------------
#
# stanza: scrypt SALT LOGN, body = sealed file key; alone in its file
#   key: scrypt(passphrase, salt = info || SALT, N = 2^LOGN, r = 8, p = 1)
# Memory is 1 KiB * N: 256 MiB for the usual 18, 4 GiB for 22.


def passphrase_bytes(passphrase: str) -> bytes:
    """Return a passphrase as the bytes that were typed."""
    # What a terminal sent that is no UTF-8 goes back to the bytes it was.
    return passphrase.encode("utf-8", "surrogateescape")


def _scrypt(passphrase: str, salt: bytes, log_n: int) -> bytes:
    kdf = Scrypt(salt=_SCRYPT_INFO + salt, length=32, n=1 << log_n, r=8, p=1)
    try:
        return kdf.derive(passphrase_bytes(passphrase))
    except MemoryError:
        raise StandfastError(
            f"too little memory for this passphrase: it takes {1 << log_n} KiB",
            hint="free some memory, or open the file on a larger machine",
        ) from None


@dataclass(frozen=True)
class PassphraseRecipient:
    """Whoever knows the passphrase; `log_n` is the work: 2^log_n KiB of memory.

    Raises:
        UsageError: the passphrase is empty, or the work is out of range.
    """

    passphrase: str = field(repr=False)
    log_n: int = 18

    def __post_init__(self) -> None:
        if not self.passphrase:
            raise UsageError("the passphrase is empty")
        if not 1 <= self.log_n <= _LOG_N_MAX:
            raise UsageError(f"not a work factor of scrypt: {self.log_n}")

    @property
    def text(self) -> str:
        """What to call it; the passphrase itself is never shown."""
        return "a passphrase"

    def wrap(self, file_key: bytes) -> list[Stanza]:
        """Return one scrypt stanza; takes about a second at 18."""
        salt = os.urandom(_SALT_SIZE)
        body = _seal_key(_scrypt(self.passphrase, salt, self.log_n), file_key)
        args = (age.encode_base64(salt), str(self.log_n))
        return [Stanza(age.SCRYPT_KIND, args, body)]


@dataclass(frozen=True)
class PassphraseIdentity:
    """Knowledge of a passphrase.

    Attributes:
        passphrase: the text, as it was typed.
        max_log_n: more work than this is refused: a stranger's file could else
            take all memory.
    """

    passphrase: str = field(repr=False)
    max_log_n: int = 22

    def unwrap(self, stanzas: Sequence[Stanza]) -> bytes | None:
        """Return the file key, or None if the passphrase is wrong."""
        for stanza in _of_kind(stanzas, age.SCRYPT_KIND, 2):
            salt = _argument(stanza, 0, _SALT_SIZE)
            log_n = self._log_n(stanza.args[1])
            _check_body(stanza)
            key = _scrypt(self.passphrase, salt, log_n)
            file_key = _open_key(key, stanza.body)
            if file_key is not None:
                return file_key
        return None

    def _log_n(self, text: str) -> int:
        if not _LOG_N.fullmatch(text):
            raise _malformed(age.SCRYPT_KIND, "the work factor is no number")
        # Two digits at most: more would be refused whatever they say.
        if len(text) > len("22") or int(text) > self.max_log_n:
            raise _malformed(age.SCRYPT_KIND, "the work factor is too large")
        return int(text)


AnyRecipient: TypeAlias = (
    X25519Recipient
    | HybridRecipient
    | SshEd25519Recipient
    | SshRsaRecipient
    | PassphraseRecipient
)
"""Every recipient type there is; each has a `text` for display."""
