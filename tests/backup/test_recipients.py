from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from standfast.backup import age, bech32
from standfast.backup.age import AgeError, Identity, Stanza
from standfast.backup.keyfiles import (
    new_identity_file,
    parse_identities,
    parse_recipient,
    read_recipients,
)
from standfast.backup.recipients import (
    AnyRecipient,
    HybridIdentity,
    HybridRecipient,
    PassphraseIdentity,
    PassphraseRecipient,
    SshEd25519Identity,
    SshRsaIdentity,
    X25519Identity,
    X25519Recipient,
)
from standfast.errors import NoIdentityError, StandfastError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

IDENTITY = X25519Identity(bytes(range(32)))
PASSPHRASE = "several words"


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        shutil.which(program) is None, reason=f"the program {program} is not installed"
    )


def run(*argv: str | Path) -> bytes:
    done = subprocess.run(
        [str(arg) for arg in argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


# Runs a program on a terminal of its own, and answers so many questions.
TERMINAL = """
import os, pty, sys
questions, answer, *argv = sys.argv[1:]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(argv[0], argv)
for _ in range(int(questions)):
    seen = b""
    while not seen.rstrip().endswith(b":"):
        seen += os.read(terminal, 1000)
    os.write(terminal, answer.encode() + b"\\n")
try:
    while os.read(terminal, 1000):
        pass
except OSError:
    pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def run_answering(questions: int, *argv: str | Path) -> None:
    run(sys.executable, "-c", TERMINAL, str(questions), PASSPHRASE, *argv)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ssh keys: one of each kind, encrypted ones, and a short one."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("the program ssh-keygen is not installed")
    folder = tmp_path_factory.mktemp("keys")
    for name, *more in (
        ("ed25519", "-t", "ed25519", "-N", ""),
        ("rsa", "-t", "rsa", "-b", "2048", "-N", ""),
        ("rsa-pem", "-t", "rsa", "-b", "2048", "-N", "", "-m", "PEM"),
        ("rsa-short", "-t", "rsa", "-b", "1024", "-N", ""),
        ("ecdsa", "-t", "ecdsa", "-N", ""),
        ("locked", "-t", "ed25519", "-N", PASSPHRASE),
        ("locked-pem", "-t", "rsa", "-b", "2048", "-N", PASSPHRASE, "-m", "PEM"),
        ("locked-pkcs8", "-t", "rsa", "-b", "2048", "-N", PASSPHRASE, "-m", "PKCS8"),
    ):
        run("ssh-keygen", "-q", "-C", "a comment", "-f", folder / name, *more)
    return folder


@pytest.fixture(scope="session")
def hybrid() -> HybridIdentity:
    identity = HybridIdentity(bytes(range(32)))
    try:
        identity.recipient.wrap(bytes(16))
    except UsageError as error:
        pytest.skip(error.message)
    return identity


def identity_of(path: Path) -> Identity:
    (identity,) = parse_identities(path.read_bytes(), path.name, None)
    return identity


# --- Bech32


@given(st.sampled_from(["age", "AGE-SECRET-KEY-", "a1b"]), st.binary(max_size=80))
def test_bech32_comes_back(hrp: str, data: bytes) -> None:
    text = bech32.encode(hrp, data)

    assert bech32.decode(text) == (hrp, data)
    assert text in {text.lower(), text.upper()}


@given(st.binary(min_size=1, max_size=40), st.data())
def test_bech32_detects_a_wrong_character(data: bytes, draw: st.DataObject) -> None:
    """The checksum catches any one that is mistyped."""
    text = bech32.encode("age", data)
    place = draw.draw(st.integers(0, len(text) - 1))
    char = draw.draw(st.characters(min_codepoint=0x20, max_codepoint=0x7E))
    if char == text[place]:
        return

    with pytest.raises(ValueError):
        bech32.decode(text[:place] + char + text[place + 1 :])


def test_bech32_gives_the_values_of_bip_173() -> None:
    """All thirty-two values in a row, from the BIP's own list."""
    text = "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw"
    data = bytes.fromhex("00443214c74254b635cf84653a56d7c675be77df")

    assert bech32.decode(text) == ("abcdef", data)
    assert bech32.encode("abcdef", data) == text
    assert bech32.decode("A12UEL5L") == ("A", b"")
    assert bech32.decode("?1ezyfcl") == ("?", b"")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pzry9x0s0muk",
        "1pzry9x0s0muk",
        "x1b4n0q5v",
        "li1dgmt3",
        "A1G7SGD8",
        "10a06t8",
        "1qzzfhee",
        "a12UEL5L",
        "\x201nwldj5",
        "\x7f1axkwrx",
    ],
)
def test_bech32_refuses_what_bip_173_says(text: str) -> None:
    with pytest.raises(ValueError):
        bech32.decode(text)


def test_bech32_refuses_padding_that_is_not_zero() -> None:
    """Otherwise one key would have several texts."""
    values = [1] * 52
    check = bech32._checksum("age", values)
    text = "age1" + "".join(bech32._CHARSET[v] for v in values + check)

    with pytest.raises(ValueError, match="padding"):
        bech32.decode(text)


# --- native keys


def test_native_keys_come_back_from_their_texts() -> None:
    identity = X25519Identity.generate()

    assert parse_recipient(identity.recipient.text) == identity.recipient
    assert parse_identities(identity.text.encode(), "f", None) == [identity]
    assert len(identity.recipient.text) == 62
    assert len(identity.text) == 74
    assert identity != X25519Identity.generate()


def test_hybrid_keys_come_back_from_their_texts(hybrid: HybridIdentity) -> None:
    assert parse_recipient(hybrid.recipient.text) == hybrid.recipient
    assert parse_identities(hybrid.text.encode(), "f", None) == [hybrid]
    assert hybrid.text.startswith("AGE-SECRET-KEY-PQ-1")
    assert hybrid.recipient.text.startswith("age1pq1")


def test_hybrid_files_open(hybrid: HybridIdentity) -> None:
    """To several recipients, and not for a stranger."""
    other = HybridIdentity.generate()
    data = age.encrypt(b"text", [hybrid.recipient, other.recipient])

    assert age.parse_header(data).length == 22 + 2 * 1557 + 48
    assert age.decrypt(data, [hybrid]) == b"text"
    assert age.decrypt(data, [other]) == b"text"
    with pytest.raises(NoIdentityError):
        age.decrypt(data, [HybridIdentity.generate(), IDENTITY])


def test_hybrid_and_classic_recipients_do_not_mix(hybrid: HybridIdentity) -> None:
    with pytest.raises(UsageError):
        age.encrypt(b"text", [hybrid.recipient, IDENTITY.recipient])


@pytest.mark.usefixtures("hybrid")
def test_a_hybrid_key_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError):
        HybridRecipient(b"\xff" * 1216).wrap(bytes(16))


def test_a_key_of_low_order_is_refused() -> None:
    """Everyone could open what is encrypted to it."""
    with pytest.raises(UsageError):
        X25519Recipient(bytes(32)).wrap(bytes(16))


def test_secrets_are_not_shown() -> None:
    """Neither a key nor a passphrase is in anything's `repr`."""
    shown = repr((IDENTITY, PassphraseRecipient("word"), PassphraseIdentity("word")))

    assert "word" not in shown
    assert repr(IDENTITY.secret) not in shown
    assert PassphraseRecipient("word").text == "a passphrase"


@needs("age-keygen")
def test_the_program_reads_our_identity_file(tmp_path: Path) -> None:
    """And sees the same recipient; its own files are of the same form."""
    text = new_identity_file(IDENTITY, "2026-11-22T15:00:00Z")
    (tmp_path / "ours").write_text(text)
    run("age-keygen", "-o", tmp_path / "theirs")
    theirs = (tmp_path / "theirs").read_text()
    (identity,) = parse_identities(theirs.encode(), "theirs", None)

    public = run("age-keygen", "-y", tmp_path / "ours").decode()
    assert public == IDENTITY.recipient.text + "\n"
    assert parse_identities(text.encode(), "ours", None) == [IDENTITY]
    assert isinstance(identity, X25519Identity)
    created = theirs.split("\n")[0].removeprefix("# created: ")
    assert new_identity_file(identity, created) == theirs


# --- recipients as text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a recipient"),
        ("someone@example.org", "not a recipient"),
        (IDENTITY.recipient.text[:-1], "not a recipient"),
        (IDENTITY.recipient.text.upper(), "not a recipient"),
        (bech32.encode("age", bytes(31)), "wrong length"),
        (bech32.encode("age1pq", bytes(32)), "wrong length"),
        (bech32.encode("age1tag", bytes(33)), "age1tag1"),
        (bech32.encode("age1tagpq", bytes(33)), "age1tagpq1"),
        (bech32.encode("age1yubikey", bytes(33)), "age1yubikey1"),
        ("ssh-ed25519", "ssh-ed25519"),
        ("ssh-ed25519 AAAA", "ssh-ed25519"),
        ("ssh-rsa AAAAB3NzaC1yc2EAAAA", "ssh-rsa"),
        ("ssh-dss AAAA", "ssh-dss"),
        (f"{IDENTITY.recipient.text}\n{IDENTITY.recipient.text}", "one line"),
        ("ssh-ed25519 AAAA a\nssh-ed25519 AAAA b", "one line"),
        ("sk-ssh-ed25519@openssh.com AAAA", "sk-ssh"),
    ],
)
def test_what_is_no_recipient_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_recipient(text)


@pytest.mark.parametrize(
    "secret",
    [
        IDENTITY.text,
        IDENTITY.text.lower(),
        IDENTITY.text[:-2],
        f"  {IDENTITY.text}\n",
        f"age: {IDENTITY.text}",
        bech32.encode("AGE-SECRET-KEY-PQ-", bytes(range(32))),
        "-----BEGIN OPENSSH PRIVATE KEY-----",
    ],
)
def test_a_pasted_secret_is_named_and_not_repeated(secret: str) -> None:
    for read in (parse_recipient, lambda text: read_recipients(text, "f")):
        with pytest.raises(UsageError, match="secret key") as caught:
            read(secret)

        said = (caught.value.message + caught.value.hint).lower()
        assert IDENTITY.text.lower()[16:30] not in said


def test_a_recipients_file_has_comments_and_blanks(keys: Path) -> None:
    line = (keys / "ed25519.pub").read_text()
    text = f"# us\n\n  {IDENTITY.recipient.text}\r\n#\n{line}"

    recipients = read_recipients(text, "f")

    assert [r.text for r in recipients] == [
        IDENTITY.recipient.text,
        " ".join(line.split()[:2]),
    ]


def test_a_wrong_line_is_named_by_number() -> None:
    with pytest.raises(UsageError, match=r"team\.txt, line 3: not a recipient"):
        read_recipients(f"# us\n{IDENTITY.recipient.text}\nage1x\n", "team.txt")


@pytest.mark.parametrize("text", ["", "\n# nobody\n"])
def test_a_file_without_recipients_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"no recipient in: team\.txt"):
        read_recipients(text, "team.txt")


@pytest.mark.parametrize("name", ["ed25519", "rsa", "rsa-pem"])
def test_ssh_keys_come_back_from_their_files(keys: Path, name: str) -> None:
    """The private key's recipient is that of its `.pub` file; comments are cut."""
    (recipient,) = read_recipients((keys / f"{name}.pub").read_text(), name)
    identity = identity_of(keys / name)

    assert isinstance(identity, SshEd25519Identity | SshRsaIdentity)
    assert identity.recipient == recipient
    assert parse_recipient(recipient.text) == recipient
    assert (keys / f"{name}.pub").read_text() == recipient.text + " a comment\n"


def test_rsa_keys_below_2048_bits_are_refused(keys: Path) -> None:
    with pytest.raises(UsageError):
        parse_recipient((keys / "rsa-short.pub").read_text())
    with pytest.raises(UsageError):
        identity_of(keys / "rsa-short")


def test_ecdsa_keys_are_refused_by_name(keys: Path) -> None:
    with pytest.raises(UsageError, match="ecdsa"):
        parse_recipient((keys / "ecdsa.pub").read_text())
    with pytest.raises(UsageError, match="a kind that age does not use"):
        identity_of(keys / "ecdsa")


# --- stanzas


@dataclass(frozen=True)
class Party:
    """A recipient, its identity, and one of another party of the same kind."""

    recipient: AnyRecipient
    identity: Identity
    stranger: Identity


@pytest.fixture(params=["x25519", "ssh-ed25519", "ssh-rsa", "passphrase"])
def party(request: pytest.FixtureRequest) -> Party:
    if request.param == "x25519":
        return Party(IDENTITY.recipient, IDENTITY, X25519Identity.generate())
    if request.param == "passphrase":
        return Party(
            PassphraseRecipient(PASSPHRASE, log_n=2),
            PassphraseIdentity(PASSPHRASE),
            PassphraseIdentity(PASSPHRASE + " "),
        )
    keys: Path = request.getfixturevalue("keys")
    name = request.param.removeprefix("ssh-")
    (recipient,) = read_recipients((keys / f"{name}.pub").read_text(), name)
    if name == "rsa":
        return Party(recipient, identity_of(keys / name), identity_of(keys / "rsa-pem"))
    stranger = SshEd25519Identity(bytes(range(32)))
    return Party(recipient, identity_of(keys / name), stranger)


def test_the_right_identity_alone_opens(party: Party) -> None:
    data = age.encrypt(b"text", [party.recipient])

    assert age.decrypt(data, [party.stranger, party.identity]) == b"text"
    with pytest.raises(NoIdentityError):
        age.decrypt(data, [party.stranger])


def test_an_altered_stanza_never_gives_a_key(party: Party) -> None:
    """Any argument or body changed: no key, or an error, never another key."""
    file_key = bytes(range(16))
    (stanza,) = party.recipient.wrap(file_key)
    assert party.identity.unwrap([stanza]) == file_key
    altered = [
        Stanza(stanza.kind, (*stanza.args, "x"), stanza.body),
        Stanza(stanza.kind, stanza.args[:-1], stanza.body),
        Stanza(stanza.kind, (stanza.args[0][:-1], *stanza.args[1:]), stanza.body),
        Stanza(stanza.kind, (stanza.args[0] + "A", *stanza.args[1:]), stanza.body),
        Stanza(stanza.kind, stanza.args, stanza.body[:-1]),
        Stanza(stanza.kind, stanza.args, stanza.body + b"\0"),
    ]
    for each in altered:
        with pytest.raises(AgeError) as caught:
            party.identity.unwrap([each])
        assert caught.value.stage == "header"


def test_a_flipped_bit_in_a_stanzas_body_is_detected(party: Party) -> None:
    (stanza,) = party.recipient.wrap(bytes(range(16)))
    for place in (0, len(stanza.body) - 1):
        body = bytearray(stanza.body)
        body[place] ^= 1
        altered = Stanza(stanza.kind, stanza.args, bytes(body))
        try:
            assert party.identity.unwrap([altered]) is None
        except AgeError as error:
            assert error.stage == "header"  # noqa: PT017 - either is right


def test_stanzas_of_other_kinds_are_passed_over(party: Party) -> None:
    (stanza,) = party.recipient.wrap(bytes(range(16)))
    others = [Stanza("grease", ("x",), b"junk"), Stanza("x25519", (), b"")]

    assert party.identity.unwrap(others) is None
    assert party.identity.unwrap([*others, stanza]) == bytes(range(16))


# --- passphrases


@pytest.mark.parametrize("log_n", [0, 31, -1])
def test_work_out_of_range_is_refused(log_n: int) -> None:
    with pytest.raises(UsageError):
        PassphraseRecipient("p", log_n=log_n)


def test_an_empty_passphrase_is_refused() -> None:
    with pytest.raises(UsageError):
        PassphraseRecipient("")


def test_too_much_work_is_refused_before_it_is_done() -> None:
    """A file may not take all memory of who tries to open it."""
    data = age.encrypt(b"text", [PassphraseRecipient("p", log_n=4)])

    assert age.decrypt(data, [PassphraseIdentity("p", max_log_n=4)]) == b"text"
    with pytest.raises(AgeError, match="too large"):
        age.decrypt(data, [PassphraseIdentity("p", max_log_n=3)])
    stanza = Stanza("scrypt", ("A" * 22, "9" * 5000), bytes(32))
    with pytest.raises(AgeError, match="too large"):
        PassphraseIdentity("p").unwrap([stanza])


def test_a_passphrase_may_be_of_any_script() -> None:
    """Also what a terminal sent that is no UTF-8."""
    for word in ("пароль", "\udcff\udcfe"):
        data = age.encrypt(b"text", [PassphraseRecipient(word, log_n=1)])
        assert age.decrypt(data, [PassphraseIdentity(word)]) == b"text"


# --- identities as files


def ask_right(question: str) -> str:
    assert question == "passphrase for f"
    return PASSPHRASE


def ask_wrong(_: str) -> str:
    return "not it"


def ask_empty(_: str) -> str:
    return ""


def test_an_identity_file_may_hold_several_keys(hybrid: HybridIdentity) -> None:
    other = X25519Identity.generate()
    text = f"# ours\n{IDENTITY.text}\n\n{other.text}\r\n  {hybrid.text}  \n"

    assert parse_identities(text.encode(), "f", None) == [IDENTITY, other, hybrid]


@pytest.mark.parametrize("armored", ["plain", "armored"])
def test_an_identity_file_may_be_encrypted(armored: str) -> None:
    """With a passphrase, armored or not; nobody to ask and a wrong one are told."""
    plain = new_identity_file(IDENTITY, "now").encode()
    data = age.encrypt(plain, [PassphraseRecipient(PASSPHRASE, log_n=2)])
    if armored == "armored":
        data = b"\n" + age.armor(data)

    assert parse_identities(data, "f", ask_right) == [IDENTITY]
    with pytest.raises(NoIdentityError, match="wrong passphrase for: f"):
        parse_identities(data, "f", ask_wrong)
    with pytest.raises(NoIdentityError, match="nobody can be asked: f"):
        parse_identities(data, "f", None)


def test_an_identity_file_encrypted_to_a_key_is_refused() -> None:
    data = age.encrypt(IDENTITY.text.encode(), [IDENTITY.recipient])

    with pytest.raises(UsageError, match=r": f$"):
        parse_identities(data, "f", ask_right)


def test_a_damaged_encrypted_identity_file_is_damage() -> None:
    """Not a wrong passphrase, and not an empty list."""
    plain = new_identity_file(IDENTITY, "now").encode()
    data = age.encrypt(plain, [PassphraseRecipient(PASSPHRASE, log_n=2)])

    with pytest.raises(AgeError):
        parse_identities(data[:-1], "f", ask_right)


@pytest.mark.parametrize("name", ["locked", "locked-pem", "locked-pkcs8"])
def test_an_ssh_key_may_be_encrypted(keys: Path, name: str) -> None:
    """OpenSSH's own form, the old PEM and PKCS 8."""
    if name == "locked" and importlib.util.find_spec("bcrypt") is None:
        pytest.skip("OpenSSH's encryption needs the package bcrypt")
    data = (keys / name).read_bytes()
    (recipient,) = read_recipients((keys / f"{name}.pub").read_text(), name)

    (identity,) = parse_identities(data, "f", ask_right)

    assert age.decrypt(age.encrypt(b"text", [recipient]), [identity]) == b"text"
    for ask in (ask_wrong, ask_empty):
        with pytest.raises(NoIdentityError, match="wrong passphrase for: f"):
            parse_identities(data, "f", ask)
    with pytest.raises(NoIdentityError, match="nobody can be asked: f"):
        parse_identities(data, "f", None)


def test_an_encrypted_ssh_key_without_bcrypt_says_what_to_do(keys: Path) -> None:
    if importlib.util.find_spec("bcrypt") is not None:
        pytest.skip("the package bcrypt is installed")

    with pytest.raises(UsageError) as caught:
        parse_identities((keys / "locked").read_bytes(), "f", ask_right)

    assert "bcrypt" in caught.value.hint


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an identity file: f"),
        (b"# nothing\n", "not an identity file: f"),
        (b"\xff\xfe\x00", "not an identity file: f"),
        (b"hello\n", "f, line 1"),
        (IDENTITY.text.encode() + b"\nhello\n", "f, line 2"),
        (IDENTITY.text.lower().encode(), "not an identity of a known kind: f"),
        (bech32.encode("AGE-SECRET-KEY-", bytes(31)).encode(), "f, line 1"),
        (IDENTITY.recipient.text.encode(), "looks like a public key"),
        (b"ssh-ed25519 AAAA", "looks like a public key"),
        (b"-----BEGIN PUBLIC KEY-----\n", "looks like a public key"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "f$"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n", "f$"),
        (b"AGE-PLUGIN-YUBIKEY-1ABC", "plugin: f, line 1"),
        (b"#" * (1 << 24) + b"\n", "too large"),
    ],
)
def test_other_files_are_no_identities(data: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_identities(data, "f", None)


def test_a_mistyped_secret_is_not_repeated() -> None:
    text = IDENTITY.text[:-1] + ("Q" if IDENTITY.text[-1] != "Q" else "P")

    with pytest.raises(UsageError) as caught:
        parse_identities(text.encode(), "f", None)

    assert text[16:30] not in caught.value.message + caught.value.hint


def test_an_ec_key_in_pem_is_refused_by_kind() -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )

    with pytest.raises(UsageError, match="does not use: f"):
        parse_identities(pem, "f", None)


@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused_in_our_own_words(data: bytes) -> None:
    """No parser lets a foreign exception through."""
    with pytest.raises(StandfastError):
        parse_identities(data, "f", None)
    with pytest.raises(StandfastError):
        parse_identities(b"-----BEGIN RSA PRIVATE KEY-----\n" + data, "f", ask_wrong)
    with pytest.raises(StandfastError):
        parse_recipient("ssh-ed25519 " + data.decode("latin-1"))


# --- the program


@needs("age")
@pytest.mark.parametrize("size", [0, 5, 65_536, 200_001])
def test_the_program_and_we_read_each_other(
    keys: Path, tmp_path: Path, size: int
) -> None:
    """X25519, ssh-ed25519 and ssh-rsa, both ways, binary and armored."""
    plain = bytes(i * 31 & 0xFF for i in range(size))
    (tmp_path / "id").write_text(new_identity_file(IDENTITY, "now"))
    (tmp_path / "id.pub").write_text(IDENTITY.recipient.text + "\n")
    (tmp_path / "plain").write_bytes(plain)
    for key in (tmp_path / "id", keys / "ed25519", keys / "rsa"):
        public = key.with_suffix(".pub")
        recipients = read_recipients(public.read_text(), public.name)
        ours = age.encrypt(plain, recipients)
        (tmp_path / "ours").write_bytes(ours)
        (tmp_path / "ours.asc").write_bytes(age.armor(ours))
        for form in ("ours", "ours.asc"):
            assert run("age", "-d", "-i", key, tmp_path / form) == plain
        theirs = run("age", "-R", public, tmp_path / "plain")
        armored = run("age", "-a", "-R", public, tmp_path / "plain")

        assert age.decrypt(theirs, [identity_of(key)]) == plain
        assert age.is_armored(armored)
        assert age.decrypt(age.dearmor(armored), [identity_of(key)]) == plain


@needs("age")
def test_the_program_and_we_share_passphrases(tmp_path: Path) -> None:
    """Ours with little work, theirs with its usual 2^18; it asks on a terminal."""
    (tmp_path / "plain").write_bytes(b"text")
    ours = age.encrypt(b"text", [PassphraseRecipient(PASSPHRASE, log_n=10)])
    (tmp_path / "ours").write_bytes(ours)

    run_answering(1, "age", "-d", "-o", tmp_path / "out", tmp_path / "ours")
    run_answering(2, "age", "-p", "-o", tmp_path / "theirs", tmp_path / "plain")

    assert (tmp_path / "out").read_bytes() == b"text"
    theirs = (tmp_path / "theirs").read_bytes()
    assert age.decrypt(theirs, [PassphraseIdentity(PASSPHRASE)]) == b"text"
