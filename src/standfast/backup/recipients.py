"""Who can open an age file: recipients, identities, and how they are written.

X25519, the post-quantum hybrid, ssh-ed25519, ssh-rsa and passphrases, each as
the age specification and the reference program define them; the ssh kinds are
the reference's own. Assumes that a caller passes passphrases and file contents
in: nothing here reads a file or a terminal. Plugins and hardware keys are
refused by name. No error ever repeats a line that may hold a secret.
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
from standfast.backup.age import AgeError, Identity, Stanza
from standfast.errors import NoIdentityError, StandfastError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cryptography.hazmat.primitives import hpke

Ask: TypeAlias = "Callable[[str], str] | None"

X25519_KIND = "X25519"
HYBRID_KIND = "mlkem768x25519"
SSH_ED25519_KIND = "ssh-ed25519"
SSH_RSA_KIND = "ssh-rsa"

_X25519_INFO = b"age-encryption.org/v1/X25519"
_HYBRID_INFO = b"age-encryption.org/mlkem768x25519"
_SSH_ED25519_INFO = b"age-encryption.org/v1/ssh-ed25519"
_SSH_RSA_LABEL = b"age-encryption.org/v1/ssh-rsa"
_SCRYPT_INFO = b"age-encryption.org/v1/scrypt"

_RECIPIENT_HRP = "age"
_IDENTITY_HRP = "AGE-SECRET-KEY-"
_HYBRID_RECIPIENT_HRP = "age1pq"
_HYBRID_IDENTITY_HRP = "AGE-SECRET-KEY-PQ-"

_KEY_SIZE = 32  # X25519 keys and shares, Ed25519 keys, hybrid seeds
_WRAPPED_SIZE = age.FILE_KEY_SIZE + age.TAG_SIZE
_MLKEM_PUBLIC_SIZE = 1184  # FIPS 203, ML-KEM-768
_MLKEM_CIPHERTEXT_SIZE = 1088
_MLKEM_SEED_SIZE = 64
_HYBRID_PUBLIC_SIZE = _MLKEM_PUBLIC_SIZE + _KEY_SIZE
_HYBRID_ENC_SIZE = _MLKEM_CIPHERTEXT_SIZE + _KEY_SIZE
_RSA_MIN_BITS = 2048
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
        return bech32.encode(_RECIPIENT_HRP, self.public)

    def wrap(self, file_key: bytes) -> list[Stanza]:
        """Return one X25519 stanza."""
        ephemeral = os.urandom(_KEY_SIZE)
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
        return cls(os.urandom(_KEY_SIZE))

    @property
    def text(self) -> str:
        """The secret key as it stands in an identity file."""
        return bech32.encode(_IDENTITY_HRP, self.secret)

    @property
    def recipient(self) -> X25519Recipient:
        """The recipient that this identity opens files for."""
        return X25519Recipient(_public_of(self.secret))

    def unwrap(self, stanzas: Sequence[Stanza]) -> bytes | None:
        """Return the file key from the first X25519 stanza that fits."""
        public = self.recipient.public
        for stanza in _of_kind(stanzas, X25519_KIND, 1):
            share = _argument(stanza, 0, _KEY_SIZE)
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
        return bech32.encode(_HYBRID_RECIPIENT_HRP, self.public)

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
        return cls(os.urandom(_KEY_SIZE))

    @property
    def text(self) -> str:
        """The secret key as it stands in an identity file."""
        return bech32.encode(_HYBRID_IDENTITY_HRP, self.seed)

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
        expanded = hashlib.shake_256(self.seed).digest(_MLKEM_SEED_SIZE + _KEY_SIZE)
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


def _ssh_blob(key: Ed25519PublicKey | RSAPublicKey) -> bytes:
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
    return ((1 + y) * pow(1 - y, -1, _P) % _P).to_bytes(_KEY_SIZE, "little")


@dataclass(frozen=True)
class SshEd25519Recipient:
    """An `ssh-ed25519 AAAA...` key; `public` is the Ed25519 key's 32 bytes."""

    public: bytes

    @property
    def blob(self) -> bytes:
        """The key in ssh's own encoding."""
        return _ssh_blob(Ed25519PublicKey.from_public_bytes(self.public))

    @property
    def text(self) -> str:
        """The public key's line, without a comment."""
        return _ssh_text(SSH_ED25519_KIND, self.blob)

    def wrap(self, file_key: bytes) -> list[Stanza]:
        """Return one ssh-ed25519 stanza."""
        blob, point = self.blob, _montgomery(self.public)
        ephemeral = os.urandom(_KEY_SIZE)
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
        secret = hashlib.sha512(self.seed).digest()[:_KEY_SIZE]
        for stanza in _for_us(stanzas, SSH_ED25519_KIND, blob):
            share = _argument(stanza, 1, _KEY_SIZE)
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
        return SshRsaRecipient(_ssh_blob(self.key.public_key()))

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


def _passphrase_bytes(passphrase: str) -> bytes:
    # What a terminal sent that is no UTF-8 goes back to the bytes it was.
    return passphrase.encode("utf-8", "surrogateescape")


def _scrypt(passphrase: str, salt: bytes, log_n: int) -> bytes:
    kdf = Scrypt(salt=_SCRYPT_INFO + salt, length=32, n=1 << log_n, r=8, p=1)
    try:
        return kdf.derive(_passphrase_bytes(passphrase))
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


# --- recipients as text -----------------------------------------------------

AnyRecipient: TypeAlias = (
    X25519Recipient
    | HybridRecipient
    | SshEd25519Recipient
    | SshRsaRecipient
    | PassphraseRecipient
)
"""Every recipient type there is; each has a `text` for display."""


def parse_recipient(text: str) -> AnyRecipient:
    """Return the recipient that a person or a file names.

    Args:
        text: `age1...`, `age1pq1...`, or a line of an ssh `.pub` file.

    Raises:
        UsageError: it is none of these. A secret key is not repeated.
    """
    text = text.strip()
    if _looks_secret(text):
        raise UsageError(
            "a secret key was given where a recipient is expected",
            hint="give its public key (age1..., or the .pub file's line); if the "
            "secret was pasted where others can see it, make a new one",
        )
    if len(text.splitlines()) > 1:  # a second one must not be lost unseen
        raise UsageError(
            "a recipient is one line", hint="give each recipient by itself"
        )
    if text.startswith("age1"):
        return _parse_age_recipient(text)
    if text.startswith(("ssh-", "ecdsa-", "sk-")):
        return _parse_ssh_recipient(text)
    raise UsageError(
        "not a recipient",
        hint="a recipient starts with age1, ssh-ed25519 or ssh-rsa",
    )


def _looks_secret(text: str) -> bool:
    low = text.lower()
    return "age-secret-key" in low or "age-plugin-" in low or "private key" in low


def _parse_age_recipient(text: str) -> X25519Recipient | HybridRecipient:
    try:
        hrp, public = bech32.decode(text)
    except ValueError as error:
        raise UsageError(
            f"not a recipient: {error}", hint="copy the whole of it, age1... to the end"
        ) from None
    if hrp == _RECIPIENT_HRP and len(public) == _KEY_SIZE:
        return X25519Recipient(public)
    if hrp == _HYBRID_RECIPIENT_HRP and len(public) == _HYBRID_PUBLIC_SIZE:
        return HybridRecipient(public)
    if hrp in {_RECIPIENT_HRP, _HYBRID_RECIPIENT_HRP}:
        raise UsageError("not a recipient: wrong length")
    raise UsageError(
        f"a recipient that needs a plugin or a hardware key: {hrp}1...",
        hint="use a plain age or ssh recipient; plugins are not supported",
    )


def _parse_ssh_recipient(text: str) -> SshEd25519Recipient | SshRsaRecipient:
    kind = text.split(maxsplit=1)[0]
    if kind not in {SSH_ED25519_KIND, SSH_RSA_KIND}:
        raise UsageError(
            f"an ssh key that age cannot encrypt to: {kind}",
            hint="use an ssh-ed25519 or ssh-rsa key, or make an age key",
        )
    try:
        key = serialization.load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(
            f"not an {kind} public key", hint="copy the whole line of the .pub file"
        ) from None
    if isinstance(key, Ed25519PublicKey):
        return SshEd25519Recipient(key.public_bytes_raw())
    if not isinstance(key, RSAPublicKey):
        raise UsageError(f"not an {kind} public key")
    _check_rsa(key)
    return SshRsaRecipient(_ssh_blob(key))


def _check_rsa(key: RSAPublicKey | RSAPrivateKey) -> None:
    if key.key_size < _RSA_MIN_BITS:
        raise UsageError(
            f"an RSA key of too few bits: {key.key_size}",
            hint=f"use one of {_RSA_MIN_BITS} bits or more, or an ssh-ed25519 key",
        )


def read_recipients(text: str, source: str) -> list[AnyRecipient]:
    """Return the recipients of a file: one a line, with comments and blanks.

    Args:
        text: the file's content; an ssh `.pub` file is one as well.
        source: the file's name, for errors.

    Raises:
        UsageError: a line is no recipient, or the file has none.
    """
    recipients: list[AnyRecipient] = []
    for number, line in _lines(text):
        try:
            recipients.append(parse_recipient(line))
        except UsageError as error:
            message = f"{source}, line {number}: {error.message}"
            raise UsageError(message, hint=error.hint) from None
    if not recipients:
        raise UsageError(f"no recipient in: {source}")
    return recipients


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if line and not line.startswith("#"):
            yield number, line


# --- identities as files ----------------------------------------------------

# As large as the reference reads: an identity file is a few lines.
_IDENTITY_FILE_MAX = 1 << 24


def parse_identities(data: bytes, source: str, ask: Ask) -> list[Identity]:
    """Return the identities of a file's content.

    Args:
        data: an age identity file, plain or itself encrypted with a passphrase
            (armored or not), or an OpenSSH or PEM private key.
        source: the file's name, for errors and questions.
        ask: returns the passphrase for the question it is given; None if nobody
            can be asked.

    Raises:
        UsageError: the file is something else.
        NoIdentityError: the passphrase is wrong, or nobody could be asked.
        AgeError: an encrypted identity file is damaged.
    """
    if len(data) > _IDENTITY_FILE_MAX:
        raise UsageError(f"too large for an identity file: {source}")
    if age.is_armored(data):
        return _encrypted_identities(age.dearmor(data), source, ask)
    if data.startswith(age.VERSION_LINE + b"\n"):
        return _encrypted_identities(data, source, ask)
    if data.lstrip().startswith(b"-----BEGIN "):
        return [_private_key(data.lstrip(), source, ask)]
    return _plain_identities(data, source)


def new_identity_file(identity: X25519Identity | HybridIdentity, created: str) -> str:
    """Return the text of an identity file as `age-keygen` writes it.

    Args:
        identity: the new key.
        created: the time, as people read it.
    """
    public = identity.recipient.text
    return f"# created: {created}\n# public key: {public}\n{identity.text}\n"


def _plain_identities(data: bytes, source: str) -> list[Identity]:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise _not_identities(source) from None
    identities: list[Identity] = []
    for number, line in _lines(text):
        identities.append(_identity_line(line, f"{source}, line {number}"))
    if not identities:
        raise _not_identities(source)
    return identities


def _not_identities(source: str) -> UsageError:
    return UsageError(
        f"not an identity file: {source}",
        hint="give an age identity file (AGE-SECRET-KEY-...) or an ssh private key",
    )


def _identity_line(line: str, place: str) -> Identity:
    if line.startswith("AGE-PLUGIN-"):
        raise UsageError(
            f"an identity that needs a plugin: {place}",
            hint="plugins are not supported; decrypt with the age program",
        )
    if line.startswith(("age1", "ssh-", "ecdsa-")):
        raise UsageError(
            f"this looks like a public key, not an identity: {place}",
            hint="give the file with the secret key",
        )
    try:
        hrp, secret = bech32.decode(line)
    except ValueError as error:
        raise UsageError(f"not an identity ({error}): {place}") from None
    if hrp == _IDENTITY_HRP and len(secret) == _KEY_SIZE:
        return X25519Identity(secret)
    if hrp == _HYBRID_IDENTITY_HRP and len(secret) == _KEY_SIZE:
        return HybridIdentity(secret)
    raise UsageError(f"not an identity of a known kind: {place}")


def _passphrase(source: str, ask: Ask) -> str:
    if ask is None:
        raise NoIdentityError(
            f"the identity file is encrypted, and nobody can be asked: {source}",
            hint="run this in a terminal, or give a key without a passphrase",
        )
    return ask(f"passphrase for {source}")


def _wrong_passphrase(source: str) -> NoIdentityError:
    return NoIdentityError(f"wrong passphrase for: {source}", hint="try it again")


def _encrypted_identities(data: bytes, source: str, ask: Ask) -> list[Identity]:
    if age.parse_header(data).kinds != (age.SCRYPT_KIND,):
        raise UsageError(
            f"an age file, but not encrypted with a passphrase: {source}",
            hint="an identity file may be plain, or encrypted with a passphrase alone",
        )
    identity = PassphraseIdentity(_passphrase(source, ask))
    try:
        plain = age.decrypt(data, [identity])
    except NoIdentityError:
        raise _wrong_passphrase(source) from None
    return _plain_identities(bytes(plain), source)


def _private_key(data: bytes, source: str, ask: Ask) -> Identity:
    if b"PRIVATE KEY" not in data.split(b"\n", 1)[0]:
        raise UsageError(
            f"this looks like a public key or a certificate: {source}",
            hint="give the file with the private key",
        )
    try:
        key = _load_private(data, source, None)
    except (TypeError, ValueError) as error:
        if not _is_locked(error):
            message = f"not a private key that can be read: {source}"
            raise UsageError(message) from None
        key = _unlock(data, source, ask)
    if isinstance(key, Ed25519PrivateKey):
        return SshEd25519Identity(key.private_bytes_raw())
    if isinstance(key, RSAPrivateKey):
        _check_rsa(key)
        return SshRsaIdentity(key)
    raise UsageError(
        f"a private key of a kind that age does not use: {source}",
        hint="use an ssh-ed25519 or ssh-rsa key, or an age identity file",
    )


def _is_locked(error: Exception) -> bool:
    # The library says so with a TypeError; its older releases, for OpenSSH's own
    # form, with a ValueError that only its text tells from damage.
    return isinstance(error, TypeError) or "password-protected" in str(error)


def _unlock(data: bytes, source: str, ask: Ask) -> object:
    passphrase = _passphrase_bytes(_passphrase(source, ask))
    try:
        return _load_private(data, source, passphrase)
    except (TypeError, ValueError):  # a TypeError for an empty one
        raise _wrong_passphrase(source) from None


def _load_private(data: bytes, source: str, passphrase: bytes | None) -> object:
    try:
        if data.startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----"):
            return serialization.load_ssh_private_key(data, passphrase)
        return serialization.load_pem_private_key(data, passphrase)
    except UnsupportedAlgorithm:
        # OpenSSH's own encryption needs bcrypt, which `cryptography` takes from
        # a package of its own that may not be there.
        raise UsageError(
            f"the private key's kind or encryption is not supported here: {source}",
            hint="if it has a passphrase, install the Python package bcrypt, or "
            "make a copy without one with `ssh-keygen -p`",
        ) from None
