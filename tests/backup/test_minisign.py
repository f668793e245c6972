from __future__ import annotations

import base64
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.backup.minisign import (
    DEFAULT_UNTRUSTED,
    TRUSTED_PREFIX,
    UNTRUSTED_PREFIX,
    PublicKey,
    SecretKey,
    Signature,
)
from standfast.errors import DamagedError, NotTrustedError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

KEY = SecretKey(bytes(range(8)), bytes(range(32)))
OTHER = SecretKey(bytes(range(8)), bytes(range(1, 33)))  # same id, another key
# BLAKE2b-256 of "Ed", the identifier, the seed and the public key of KEY.
CHECKSUM = "1e28e440acf5a83e774251c7c74157b765ab56f2ce9b3e21adfd9e1d7162b5a6"
MESSAGE = b"what was signed\n"

printable = st.text(st.characters(categories=["L", "N", "P", "S"]) | st.just(" "))
needs_minisign = pytest.mark.skipif(
    shutil.which("minisign") is None, reason="the program minisign is not installed"
)


def minisign(*args: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["minisign", *args],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refused(data: bytes, message: bytes = MESSAGE) -> bool:
    try:
        KEY.public.verify(message, Signature.parse(data))
    except (DamagedError, NotTrustedError):
        return True
    return False


# --- our own laws


@given(st.binary(), printable)
def test_what_is_signed_verifies(message: bytes, comment: str) -> None:
    """And gives back the trusted comment, of any printable characters."""
    text = KEY.sign(message, comment)
    signature = Signature.parse(text)

    assert KEY.public.verify(message, signature) == comment
    assert signature.prehashed
    assert signature.key_id == KEY.public.key_id == "0706050403020100"
    assert signature.untrusted_comment == DEFAULT_UNTRUSTED
    assert signature.to_text() == text
    assert Signature.parse(text.encode()) == signature


def test_every_flipped_bit_is_detected() -> None:
    """All but the untrusted comment's text, which the format leaves free."""
    data = KEY.sign(MESSAGE, "file:SUMS seq:7").encode()
    free = range(len(UNTRUSTED_PREFIX), data.index(b"\n"))

    kept = []
    for place in range(len(data)):
        for bit in range(8):
            altered = bytearray(data)
            altered[place] ^= 1 << bit
            if place not in free and not refused(bytes(altered)):
                kept.append((place, bit))

    assert kept == []


def test_every_cut_and_append_is_detected() -> None:
    data = KEY.sign(MESSAGE, "c").encode()

    assert [cut for cut in range(len(data)) if not refused(data[:cut])] == []
    assert [byte for byte in range(256) if not refused(data + bytes([byte]))] == []


def test_base64_has_one_spelling() -> None:
    """The unused bits before the padding are not free either."""
    lines = KEY.sign(MESSAGE, "c").split("\n")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    for number in (1, 3):
        stem, pad = lines[number].rstrip("="), lines[number].count("=")
        assert pad > 0
        for char in alphabet.replace(stem[-1], ""):
            changed = [*lines]
            changed[number] = stem[:-1] + char + "=" * pad
            assert refused("\n".join(changed).encode())


def test_the_message_is_covered() -> None:
    data = KEY.sign(MESSAGE, "c").encode()

    assert not refused(data)
    assert refused(data, MESSAGE + b"\n")
    assert refused(data, b"")


def test_parts_of_two_signatures_do_not_mix() -> None:
    """The second signature ties the trusted comment to the first."""
    one = KEY.sign(MESSAGE, "one").split("\n")
    two = KEY.sign(b"another", "two").split("\n")

    assert refused("\n".join(one[:2] + two[2:]).encode())
    assert refused("\n".join([*one[:2], two[2], one[3], ""]).encode())


def test_another_key_is_not_trusted() -> None:
    """Neither one with another identifier, nor one that took ours."""
    stranger = SecretKey.generate()

    with pytest.raises(NotTrustedError, match=stranger.public.key_id):
        KEY.public.verify(MESSAGE, Signature.parse(stranger.sign(MESSAGE, "c")))
    with pytest.raises(NotTrustedError, match="signature is wrong"):
        KEY.public.verify(MESSAGE, Signature.parse(OTHER.sign(MESSAGE, "c")))


@pytest.mark.parametrize(
    "comment", ["two\nlines", "cr\r", "\x1b[2J", "nul\0", "\u202edlrow", "x" * 8174]
)
def test_comments_are_one_printable_line(comment: str) -> None:
    with pytest.raises(UsageError):
        KEY.sign(MESSAGE, comment)
    with pytest.raises(UsageError):
        KEY.sign(MESSAGE, "c", comment)


@pytest.mark.parametrize(
    "change",
    [
        ("untrusted comment: ", "untrusted comment:"),
        ("untrusted comment: ", "Untrusted comment: "),
        ("trusted comment: c", "trusted comment:c"),
        ("trusted comment: c", "trusted comment: \x1b[2J"),
        ("trusted comment: c", "trusted comment: \ud800"),
        ("\n", "\r\n"),
        ("\n", "\n\n"),
    ],
)
def test_other_forms_are_damage(change: tuple[str, str]) -> None:
    text = KEY.sign(MESSAGE, "c")

    with pytest.raises(DamagedError):
        Signature.parse(text.replace(*change))


def test_a_signature_file_that_is_no_text_is_damage() -> None:
    with pytest.raises(DamagedError):
        Signature.parse(b"\xff\xfe")


# --- keys


def test_keys_come_back_from_their_texts() -> None:
    secret = SecretKey.generate()

    assert SecretKey.parse(secret.to_text()) == secret
    assert PublicKey.parse(secret.public.text) == secret.public
    assert PublicKey.parse(secret.public.to_file_text()) == secret.public
    assert secret.public.text.startswith("RW")
    assert secret != SecretKey.generate()


def test_public_keys_form_sets_and_secrets_are_not_shown() -> None:
    secret = SecretKey.generate()

    assert {secret.public} == {PublicKey.parse(secret.public.text)}
    assert repr(secret) == f"SecretKey(key={secret.key!r})"


@pytest.mark.parametrize("change", ["", "RW", "x", "\nRWabc"])
def test_what_is_no_public_key_is_refused(change: str) -> None:
    with pytest.raises(UsageError):
        PublicKey.parse(change and KEY.public.text + change)


def secret_file(data: bytes | bytearray) -> str:
    return f"{UNTRUSTED_PREFIX}x\n{base64.b64encode(data).decode()}\n"


def test_encrypted_secret_keys_are_refused_by_name() -> None:
    data = bytearray(base64.b64decode(KEY.to_text().split("\n")[1]))
    data[2:4] = b"Sc"

    with pytest.raises(UsageError, match="encrypted"):
        SecretKey.parse(secret_file(data))


@pytest.mark.parametrize("place", [0, 4, 54, 62, 94, 126, 157])
def test_an_altered_secret_key_is_refused(place: int) -> None:
    """Halves that disagree, or a checksum that is neither zero nor right.

    An altered identifier shows only where there is a checksum.
    """
    data = bytearray(base64.b64decode(KEY.to_text().split("\n")[1]))
    assert SecretKey.parse(secret_file(data)) == KEY
    data[126:] = bytes.fromhex(CHECKSUM)
    assert SecretKey.parse(secret_file(data)) == KEY

    data[place] ^= 1

    with pytest.raises((DamagedError, UsageError)):
        SecretKey.parse(secret_file(data))


def test_a_public_key_given_as_secret_is_refused() -> None:
    with pytest.raises(UsageError):
        SecretKey.parse(KEY.public.to_file_text())


# --- the program


@needs_minisign
@pytest.mark.parametrize(
    "comment", ["seq:7", "tab\there", "ümlaut 日本", "", "x" * 8173]
)
def test_the_program_verifies_ours(tmp_path: Path, comment: str) -> None:
    (tmp_path / "f").write_bytes(MESSAGE)
    (tmp_path / "f.minisig").write_text(KEY.sign(MESSAGE, comment))
    (tmp_path / "k.pub").write_text(KEY.public.to_file_text())

    by_text = minisign("-V", "-H", "-m", "f", "-P", KEY.public.text, folder=tmp_path)
    by_file = minisign("-V", "-Q", "-m", "f", "-p", "k.pub", folder=tmp_path)

    assert by_text.returncode == 0
    assert by_file.stdout.rstrip("\n") == comment


@needs_minisign
def test_the_program_refuses_ours_when_altered(tmp_path: Path) -> None:
    """So that its consent above means something."""
    (tmp_path / "f").write_bytes(MESSAGE + b"x")
    (tmp_path / "f.minisig").write_text(KEY.sign(MESSAGE, "c"))

    done = minisign("-V", "-m", "f", "-P", KEY.public.text, folder=tmp_path)

    assert done.returncode != 0


@needs_minisign
@pytest.mark.parametrize(("flags", "prehashed"), [([], [True]), (["-l"], [False])])
def test_we_verify_the_programs(
    tmp_path: Path, flags: list[str], prehashed: list[bool]
) -> None:
    """Its own key files too, prehashed and legacy, with its default comment."""
    minisign("-G", "-W", "-p", "k.pub", "-s", "k.key", folder=tmp_path)
    (tmp_path / "f").write_bytes(MESSAGE)
    minisign("-S", *flags, "-s", "k.key", "-m", "f", folder=tmp_path)
    public = PublicKey.parse((tmp_path / "k.pub").read_text())
    secret = SecretKey.parse((tmp_path / "k.key").read_text())

    signature = Signature.parse((tmp_path / "f.minisig").read_bytes())

    assert secret.public == public
    assert public.key_id in (tmp_path / "k.pub").read_text()
    assert public.to_file_text() == (tmp_path / "k.pub").read_text()
    assert (
        secret.to_text().split("\n")[1:]
        == ((tmp_path / "k.key").read_text().split("\n")[1:])
    )
    assert [signature.prehashed] == prehashed
    assert public.verify(MESSAGE, signature).startswith("timestamp:")
    with pytest.raises(NotTrustedError):
        public.verify(MESSAGE + b"x", signature)


@needs_minisign
def test_the_program_signs_with_our_secret_key(tmp_path: Path) -> None:
    secret = SecretKey.generate()
    (tmp_path / "k.key").write_text(secret.to_text())
    (tmp_path / "f").write_bytes(MESSAGE)

    done = minisign("-S", "-s", "k.key", "-m", "f", "-t", "tc", folder=tmp_path)

    assert done.returncode == 0
    signature = Signature.parse((tmp_path / "f.minisig").read_bytes())
    assert secret.public.verify(MESSAGE, signature) == "tc"
    assert TRUSTED_PREFIX + "tc\n" in (tmp_path / "f.minisig").read_text()
