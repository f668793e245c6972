"""Recipients and identities as people keep them: lines, key files, ssh keys.

What ``age-keygen`` and ``ssh-keygen`` write is read here and becomes the types of
``recipients``. Assumes that a caller passes file contents and answers in: nothing
here reads a file or a terminal. Plugins and hardware keys are refused by name. No
error ever repeats a line that may hold a secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from standfast.backup import age, bech32
from standfast.backup.recipients import (
    HYBRID_IDENTITY_HRP,
    HYBRID_PUBLIC_SIZE,
    HYBRID_RECIPIENT_HRP,
    IDENTITY_HRP,
    KEY_SIZE,
    RECIPIENT_HRP,
    RSA_MIN_BITS,
    SSH_ED25519_KIND,
    SSH_RSA_KIND,
    AnyRecipient,
    HybridIdentity,
    HybridRecipient,
    PassphraseIdentity,
    SshEd25519Identity,
    SshEd25519Recipient,
    SshRsaIdentity,
    SshRsaRecipient,
    X25519Identity,
    X25519Recipient,
    passphrase_bytes,
    ssh_blob,
)
from standfast.errors import NoIdentityError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from standfast.backup.age import Identity

Ask: TypeAlias = "Callable[[str], str] | None"


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
    if hrp == RECIPIENT_HRP and len(public) == KEY_SIZE:
        return X25519Recipient(public)
    if hrp == HYBRID_RECIPIENT_HRP and len(public) == HYBRID_PUBLIC_SIZE:
        return HybridRecipient(public)
    if hrp in {RECIPIENT_HRP, HYBRID_RECIPIENT_HRP}:
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
    return SshRsaRecipient(ssh_blob(key))


def _check_rsa(key: RSAPublicKey | RSAPrivateKey) -> None:
    if key.key_size < RSA_MIN_BITS:
        raise UsageError(
            f"an RSA key of too few bits: {key.key_size}",
            hint=f"use one of {RSA_MIN_BITS} bits or more, or an ssh-ed25519 key",
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
    if hrp == IDENTITY_HRP and len(secret) == KEY_SIZE:
        return X25519Identity(secret)
    if hrp == HYBRID_IDENTITY_HRP and len(secret) == KEY_SIZE:
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
    passphrase = passphrase_bytes(_passphrase(source, ask))
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
