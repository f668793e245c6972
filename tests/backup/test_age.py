from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from standfast.backup import age
from standfast.backup.age import AgeError, Stanza
from standfast.backup.recipients import (
    PassphraseIdentity,
    PassphraseRecipient,
    X25519Identity,
)
from standfast.errors import NoIdentityError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

IDENTITY = X25519Identity(bytes(range(32)))
OTHER = X25519Identity(bytes(range(1, 33)))
CHUNK = 65_536
EDGES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1]

sizes = st.one_of(
    st.sampled_from(EDGES),
    st.integers(0, 300),
    st.builds(
        lambda edge, off: max(0, edge + off),
        st.sampled_from(EDGES),
        st.integers(-20, 20),
    ),
)


def sample(size: int) -> bytes:
    """Return bytes that differ from chunk to chunk."""
    return bytes((i * 7 + i // 251) & 0xFF for i in range(size))


@dataclass(frozen=True)
class Plain:
    """A recipient and identity that hides nothing: it shows the format alone."""

    kind: str
    args: tuple[str, ...] = ()
    more: bytes = b""

    def wrap(self, file_key: bytes) -> list[Stanza]:
        return [Stanza(self.kind, self.args, file_key + self.more)]

    def unwrap(self, stanzas: Sequence[Stanza]) -> bytes | None:
        return next((s.body for s in stanzas if s.kind == self.kind), None)


def refused(data: bytes) -> bool:
    """Return whether `decrypt` and `decrypt_chunks` both refuse the file."""
    count = 0
    for read in (age.decrypt, lambda d, i: b"".join(age.decrypt_chunks(d, i))):
        try:
            read(data, [IDENTITY])
        except (AgeError, NoIdentityError):
            count += 1
    return count == 2


# --- round trips and sizes


@settings(max_examples=60, deadline=None)
@given(sizes)
def test_what_is_encrypted_comes_back(size: int) -> None:
    """Whole and by chunks, at sizes around every edge of a chunk."""
    plaintext = sample(size)

    data = age.encrypt(plaintext, [IDENTITY.recipient])

    assert age.decrypt(data, [IDENTITY]) == plaintext
    assert b"".join(age.decrypt_chunks(data, [IDENTITY])) == plaintext
    header = age.parse_header(data)
    assert age.plaintext_length(len(data), header.length) == size


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_like_object_will_do(kind: Callable[[bytes], bytes]) -> None:
    data = kind(age.encrypt(kind(b"text"), [IDENTITY.recipient]))

    assert age.decrypt(data, [IDENTITY]) == b"text"
    assert age.parse_header(data).kinds == ("X25519",)
    assert not age.is_armored(data)


@given(st.integers(0, 5 * CHUNK), st.integers(0, 4000))
def test_length_on_disk_tells_the_plaintexts(size: int, header_len: int) -> None:
    """`plaintext_length` undoes the specification's formula for any size."""
    chunks = max(1, -(-size // CHUNK))
    on_disk = header_len + 16 + size + 16 * chunks

    assert age.plaintext_length(on_disk, header_len) == size


@pytest.mark.parametrize(
    "payload", [0, 1, 15, CHUNK + 16 + 1, CHUNK + 32, 2 * 65552 + 16]
)
def test_impossible_lengths_are_refused(payload: int) -> None:
    """A last chunk of nothing but a tag, or of less, is no chunk."""
    with pytest.raises(AgeError) as caught:
        age.plaintext_length(200 + 16 + payload, 200)

    assert caught.value.stage == "payload"


def test_a_file_to_one_recipient_has_the_documented_size() -> None:
    """168 bytes of header, the nonce, and one tag."""
    assert len(age.encrypt(b"", [IDENTITY.recipient])) == 200


def test_several_recipients_each_open_the_file() -> None:
    data = age.encrypt(b"text", [IDENTITY.recipient, OTHER.recipient])

    assert age.decrypt(data, [IDENTITY]) == b"text"
    assert age.decrypt(data, [OTHER]) == b"text"
    assert age.parse_header(data).kinds == ("X25519", "X25519")


def test_no_two_files_share_a_byte_of_key() -> None:
    """The same plaintext to the same recipient gives another file each time."""
    one = age.encrypt(b"text", [IDENTITY.recipient])
    two = age.encrypt(b"text", [IDENTITY.recipient])

    assert age.parse_header(one).stanzas != age.parse_header(two).stanzas
    assert one[-36:-20] != two[-36:-20]  # payload nonce
    assert one[-20:-16] != two[-20:-16]  # the sealed four bytes


# --- damage


def test_every_flipped_bit_is_detected() -> None:
    """There is no free bit in a file: header, nonce, chunk or tag."""
    data = age.encrypt(b"text", [IDENTITY.recipient])

    free = []
    for place in range(len(data)):
        for bit in range(8):
            altered = bytearray(data)
            altered[place] ^= 1 << bit
            if not refused(bytes(altered)):
                free.append((place, bit))

    assert free == []


def test_every_cut_is_detected() -> None:
    data = age.encrypt(b"text", [IDENTITY.recipient])

    assert [cut for cut in range(len(data)) if not refused(data[:cut])] == []


@pytest.mark.parametrize("size", [0, 4, CHUNK, CHUNK + 1])
def test_every_appended_byte_is_detected(size: int) -> None:
    data = age.encrypt(sample(size), [IDENTITY.recipient])

    assert [byte for byte in range(256) if not refused(data + bytes([byte]))] == []
    assert refused(data + data)
    assert refused(data + bytes(65_552))


@settings(max_examples=60, deadline=None)
@given(sizes.filter(bool), st.data())
def test_damage_anywhere_in_the_payload_is_detected(
    size: int, data: st.DataObject
) -> None:
    """A flip, a cut or a removed piece at any place, in files of several chunks."""
    whole = age.encrypt(sample(size), [IDENTITY.recipient])
    start = data.draw(st.integers(168, len(whole) - 1))
    end = data.draw(st.integers(start + 1, len(whole)))
    flipped = bytearray(whole)
    flipped[start] ^= 1 << data.draw(st.integers(0, 7))

    assert refused(bytes(flipped))
    assert refused(whole[:start])
    assert refused(whole[:start] + whole[end:])


def test_chunks_cannot_be_swapped_dropped_or_repeated() -> None:
    data = age.encrypt(sample(4 * CHUNK), [IDENTITY.recipient])
    head, rest = data[:184], data[184:]
    a, b, c, d = (rest[i * 65_552 : (i + 1) * 65_552] for i in range(4))

    assert age.decrypt(head + a + b + c + d, [IDENTITY]) == sample(4 * CHUNK)
    for pieces in (
        [b, a, c, d],
        [a, b, d],
        [a, b, c],
        [a, b, b, c, d],
        [d],
        [a, d, c, d],
    ):
        assert refused(head + b"".join(pieces))


def test_payload_of_another_file_is_refused() -> None:
    """Header and payload belong together, even for the same recipient."""
    one = age.encrypt(b"text", [IDENTITY.recipient])
    two = age.encrypt(b"text", [IDENTITY.recipient])

    assert refused(one[:168] + two[168:])


def test_stages_name_the_part_that_is_damaged() -> None:
    data = age.encrypt(b"text", [IDENTITY.recipient])
    payload = data[:-1] + bytes([data[-1] ^ 1])
    first, line, *rest = age.armor(data).split(b"\n")
    text = b"\n".join([first, b"!" + line[1:], *rest])

    with pytest.raises(AgeError) as caught:
        age.decrypt(payload, [IDENTITY])
    assert caught.value.stage == "payload"
    with pytest.raises(AgeError) as caught:
        age.decrypt(b"age-encryption.org/v2\n", [IDENTITY])
    assert caught.value.stage == "header"
    with pytest.raises(AgeError) as caught:
        age.dearmor(text)
    assert caught.value.stage == "armor"


@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused_in_our_own_words(data: bytes) -> None:
    """No parser lets a foreign exception through, and none takes junk."""
    assert refused(data)
    assert refused(b"age-encryption.org/v1\n" + data)
    assert refused(b"age-encryption.org/v1\n-> X25519 " + data)
    try:
        binary = age.dearmor(b"-----BEGIN AGE ENCRYPTED FILE-----\n" + data)
    except AgeError:
        return
    assert refused(binary)  # an end line alone armors the empty file


@given(st.integers(0, 203), st.binary(min_size=1, max_size=70))
def test_inserted_bytes_are_detected(place: int, more: bytes) -> None:
    """Also a line, a space or a CR within the header."""
    data = age.encrypt(b"text", [IDENTITY.recipient])
    changed = data[:place] + more + data[place:]

    assert refused(changed)
    assert refused(data[:place] + b"\r" + data[place:])
    assert refused(data[:place] + b"\n" + data[place:])


# --- header


words = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1)


@given(words.filter(lambda w: w != "scrypt"), st.lists(words), st.binary(max_size=200))
def test_a_written_header_parses_back(kind: str, args: list[str], more: bytes) -> None:
    """For any kind, arguments and length of body, also multiples of a line."""
    recipient = Plain(kind, tuple(args), more)

    header, _ = age.make_header([recipient])
    parsed = age.parse_header(header)

    assert parsed.length == len(header) - 16
    assert parsed.kinds == (kind,)
    assert parsed.stanzas[0].args == tuple(args)
    assert parsed.stanzas[0].body[16:] == more


def test_a_file_key_of_another_size_is_refused() -> None:
    """A recipient that wraps more than the key does not make a second key."""
    data = age.encrypt(b"text", [Plain("x", more=b"\0")])

    with pytest.raises(AgeError) as caught:
        age.decrypt(data, [Plain("x")])

    assert caught.value.stage == "header"


def test_a_recipient_is_needed() -> None:
    with pytest.raises(UsageError):
        age.make_header([])


def test_a_passphrase_stands_alone() -> None:
    with pytest.raises(UsageError):
        age.make_header([PassphraseRecipient("p", log_n=1), IDENTITY.recipient])
    with pytest.raises(UsageError):
        age.make_header([PassphraseRecipient("p", log_n=1)] * 2)


def test_post_quantum_and_classic_recipients_do_not_mix() -> None:
    with pytest.raises(UsageError):
        age.make_header([Plain("mlkem768x25519"), IDENTITY.recipient])

    header, _ = age.make_header([Plain("mlkem768x25519"), Plain("mlkem768p256tag")])
    assert age.parse_header(header).kinds == ("mlkem768x25519", "mlkem768p256tag")


def test_no_identity_says_what_would_open_it() -> None:
    data = age.encrypt(b"text", [IDENTITY.recipient, Plain("ssh-rsa")])

    with pytest.raises(NoIdentityError) as caught:
        age.decrypt(data, [OTHER])

    assert "X25519, ssh-rsa" in caught.value.hint
    with pytest.raises(NoIdentityError):
        age.decrypt(data, [])


def test_no_identity_says_that_a_passphrase_would() -> None:
    data = age.encrypt(b"text", [PassphraseRecipient("right", log_n=1)])

    with pytest.raises(NoIdentityError) as caught:
        age.decrypt(data, [PassphraseIdentity("wrong")])

    assert "passphrase" in caught.value.hint
    assert age.decrypt(data, [PassphraseIdentity("right")]) == b"text"


# --- sealer


def test_sealing_in_place_and_by_copy_are_the_same() -> None:
    """Releases of `cryptography` with and without `encrypt_into` agree."""
    if not hasattr(ChaCha20Poly1305, "encrypt_into"):
        pytest.skip("this cryptography has no encrypt_into")
    aead, nonce = ChaCha20Poly1305(bytes(32)), bytes(12)
    chunk = sample(1000)
    one, two = bytearray(1200), bytearray(1200)
    back_one, back_two = bytearray(1000), bytearray(1000)

    assert age._seal_in_place(aead, nonce, chunk, memoryview(one)) == 1016
    assert age._seal_and_copy(aead, nonce, chunk, memoryview(two)) == 1016
    assert one == two
    sealed = memoryview(one)[:1016]
    age._open_in_place(aead, nonce, sealed, memoryview(back_one))
    age._open_and_copy(aead, nonce, sealed, memoryview(back_two))
    assert chunk == back_one == back_two


def test_sealer_keeps_the_order_of_a_file() -> None:
    """No chunk after the last, no empty last chunk after others, exact sizes."""
    _, sealer = age.make_header([IDENTITY.recipient])
    out = memoryview(bytearray(65_552))

    with pytest.raises(ValueError, match="not a full chunk"):
        sealer.seal_into(bytes(CHUNK - 1), out)
    with pytest.raises(ValueError, match="too long"):
        sealer.seal_last_into(bytes(CHUNK + 1), out)
    assert sealer.seal_into(bytes(CHUNK), out) == 65_552
    with pytest.raises(ValueError, match="empty last chunk"):
        sealer.seal_last_into(b"", out)
    assert sealer.seal_last_into(b"end", out) == 19
    with pytest.raises(ValueError, match="after the last"):
        sealer.seal_into(bytes(CHUNK), out)
    with pytest.raises(ValueError, match="after the last"):
        sealer.seal_last_into(b"end", out)


def test_sealer_writes_within_its_room() -> None:
    """Bytes after the sealed chunk are left alone; too little room is an error."""
    header, sealer = age.make_header([IDENTITY.recipient])
    out = bytearray(b"\xaa" * 100)

    written = sealer.seal_last_into(b"text", memoryview(out))

    assert written == 20
    assert out[20:] == b"\xaa" * 80
    assert age.decrypt(header + bytes(out[:20]), [IDENTITY]) == b"text"
    _, sealer = age.make_header([IDENTITY.recipient])
    with pytest.raises(ValueError):
        sealer.seal_last_into(b"text", memoryview(out)[:19])


def test_sealers_run_side_by_side() -> None:
    """Four threads, a sealer each: every file opens to its own plaintext."""
    plain = [bytes([n]) * (3 * CHUNK + n) for n in range(4)]
    files: dict[int, bytes] = {}

    def seal(n: int) -> None:
        files[n] = age.encrypt(plain[n], [IDENTITY.recipient])

    threads = [threading.Thread(target=seal, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [age.decrypt(files[n], [IDENTITY]) for n in range(4)] == plain


# --- armor


@given(st.binary(max_size=400))
def test_armor_comes_back(data: bytes) -> None:
    """With LF or CRLF, with white space around; lines are 64 columns at most."""
    text = age.armor(data)

    assert age.is_armored(text)
    assert max(len(line) for line in text.split(b"\n")[1:-2] or [b""]) <= 64
    assert age.dearmor(text) == data
    assert age.dearmor(text.replace(b"\n", b"\r\n")) == data
    assert age.dearmor(b" \n\n" + text + b" \n\t") == data


@pytest.mark.parametrize(
    "around",
    [
        (b"\n" * 1025, b""),
        (b"", b"\n" * 1025),
        (b" ", b""),
        (b"x\n", b""),
        (b"", b"x"),
    ],
)
def test_only_some_white_space_may_surround_armor(around: tuple[bytes, bytes]) -> None:
    before, after = around

    with pytest.raises(AgeError):
        age.dearmor(before + age.armor(b"data") + after)


@given(st.binary(min_size=1, max_size=120), st.data())
def test_armor_has_one_spelling(data: bytes, draw: st.DataObject) -> None:
    """No byte of the block can change and still give the same file."""
    text = bytearray(age.armor(data).rstrip(b"\n"))
    place = draw.draw(st.integers(0, len(text) - 1))
    text[place] ^= draw.draw(st.integers(1, 255))

    try:
        changed = age.dearmor(bytes(text))
    except AgeError:
        return

    assert changed != data
