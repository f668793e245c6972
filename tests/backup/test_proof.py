"""Judging a vault by facts alone: listings, sums, signatures, a ledger."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.backup.minisign import SecretKey
from standfast.backup.model import ROOT_OBJECTS, SIGNATURE, SUMS
from standfast.backup.proof import (
    COMMITTED,
    DAMAGE,
    DISTRUST,
    LEFTOVER,
    REFUSED,
    UNFINISHED,
    Survey,
    Trust,
    survey,
)
from standfast.backup.state import Ledger, Sent
from standfast.backup.stores import Entry
from standfast.backup.sums import (
    NONE,
    Statement,
    format_sums,
    line_name,
    parse_statement,
    parse_sums,
)
from standfast.errors import DamagedError

VAULT = "ab" * 16
KEY = SecretKey(b"12345678", bytes(32))
ROOT = [Entry(name, 1, "file") for name in (*ROOT_OBJECTS, SUMS, SIGNATURE)]
ONE, TWO = "01" * 16, "02" * 16
ANY_NAME = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)
DIGESTS = st.dictionaries(ANY_NAME, st.binary(min_size=32, max_size=32).map(bytes.hex))


def trust(*sent: Sent, remembers: bool = True, vault: str = VAULT) -> Trust:
    ledger = Ledger({one.archive: one for one in sent})
    return Trust(vault, frozenset([KEY.public]), ledger, remembers)


class Built:
    """A listing and its small objects, made step by step."""

    def __init__(self) -> None:
        self.entries = list(ROOT)
        self.small: dict[str, bytes] = {}

    def archive(
        self,
        archive: str = ONE,
        *,
        signed: str = "",
        sequence: int = 1,
        previous: str = NONE,
        key: SecretKey = KEY,
        base: str = "",
    ) -> str:
        """Add an archive of one segment; return the digest of its sums."""
        folder = f"archives/{archive}"
        sums = format_sums(
            {"00000000.zst.age": "0" * 64, "manifest.json.age": "1" * 64}
        )
        statement = Statement(
            "archive", VAULT, signed or archive, 2, 30, sequence, previous, 0,
            base, NONE if base else "",
        )  # fmt: skip
        sizes = {"00000000.zst.age": 10, "manifest.json.age": 20, SUMS: 9, SIGNATURE: 9}
        for name, size in sizes.items():
            self.entries.append(Entry(f"{folder}/{name}", size, "file"))
        self.small[f"{folder}/{SUMS}"] = sums
        signature = key.sign(sums, statement.text()).encode()
        self.small[f"{folder}/{SIGNATURE}"] = signature
        return hashlib.sha256(sums).hexdigest()

    def drop(self, name: str) -> None:
        self.entries = [entry for entry in self.entries if entry.name != name]
        self.small.pop(name, None)

    def judged(self, by: Trust) -> Survey:
        return survey(self.entries, self.small, by)


def grades(result: Survey) -> set[tuple[str, str]]:
    return {(finding.object, finding.grade) for finding in result.all_findings()}


def committed(archive: str, sums: str, sequence: int = 1) -> Sent:
    return Sent(archive, sequence, "committed", sums, "x", 0)


def test_a_good_archive() -> None:
    """A trusted signature over what is there: committed, and nothing to say."""
    built = Built()
    sums = built.archive()
    result = built.judged(trust(committed(ONE, sums)))
    assert [COMMITTED] == [archive.standing for archive in result.archives]
    assert set() == grades(result)
    assert 48 == result.archives[0].stored


def test_an_empty_vault() -> None:
    """Root files alone are a whole vault; each of them must be there."""
    assert set() == grades(Built().judged(trust()))
    for entry in ROOT:
        built = Built()
        built.drop(entry.name)
        assert {(entry.name, DAMAGE)} == grades(built.judged(trust()))


@pytest.mark.parametrize("remembers", [True, False])
def test_without_a_signature(*, remembers: bool) -> None:
    """What was committed is damage; what never was is a leftover; a stranger's
    guess is distrust."""
    name = f"archives/{ONE}/{SIGNATURE}"
    built = Built()
    sums = built.archive()
    built.drop(name)
    known = built.judged(trust(committed(ONE, sums), remembers=remembers))
    assert {(name, DAMAGE)} == grades(known)
    assert REFUSED == known.archives[0].standing
    unknown = built.judged(trust(remembers=remembers))
    expected = (f"archives/{ONE}", LEFTOVER) if remembers else (name, DISTRUST)
    assert {expected} == grades(unknown)
    standing = UNFINISHED if remembers else REFUSED
    assert standing == unknown.archives[0].standing


def test_an_unpinned_key() -> None:
    """A stranger's signature is distrust; on what we committed it is damage."""
    stranger = SecretKey(b"87654321", b"\1" * 32)
    name = f"archives/{ONE}/{SIGNATURE}"
    built = Built()
    sums = built.archive(key=stranger)
    assert {(name, DISTRUST)} == grades(built.judged(trust()))
    ours = built.judged(trust(committed(ONE, sums)))
    assert {(name, DAMAGE)} == grades(ours)
    assert REFUSED == ours.archives[0].standing


def test_another_vaults_archive() -> None:
    """Signed by the right key for another vault: distrust."""
    built = Built()
    built.archive()
    result = built.judged(trust(vault="cd" * 16))
    assert (f"archives/{ONE}/{SIGNATURE}", DISTRUST) in grades(result)
    assert REFUSED == result.archives[0].standing


def test_a_renamed_archive() -> None:
    """An archive that is signed under another id is refused."""
    built = Built()
    built.archive(ONE, signed=TWO)
    result = built.judged(trust())
    assert {(f"archives/{ONE}/{SIGNATURE}", DAMAGE)} == grades(result)


def test_another_number_than_it_was_sent_as() -> None:
    """The ledger knows the number of each archive."""
    built = Built()
    sums = built.archive(sequence=2)
    result = built.judged(trust(committed(ONE, sums, sequence=1)))
    assert {(f"archives/{ONE}/{SIGNATURE}", DAMAGE)} == grades(result)


def test_a_vanished_archive() -> None:
    """What was committed and is not there is named; what was reserved is not."""
    result = Built().judged(trust(committed(ONE, "0" * 64)))
    assert {(f"archives/{ONE}", DAMAGE)} == grades(result)
    assert set() == grades(Built().judged(trust(Sent(ONE, 1, "reserved", "", "", 0))))


def test_a_gap_in_a_chain() -> None:
    """Without a ledger, a signed digest of what came before shows a gap."""
    gone = "f" * 64
    built = Built()
    built.archive(TWO, sequence=2, previous=gone)
    result = built.judged(trust(remembers=False))
    assert {(f"archives/{TWO}", DAMAGE)} == grades(result)
    # The archive itself is whole: it can still be restored.
    assert COMMITTED == result.archives[0].standing
    # A ledger that knows the digest knows more: it says what became of it.
    known = Sent(ONE, 1, "removed", gone, "x", 0)
    assert set() == grades(built.judged(trust(known)))


def test_totals() -> None:
    """Names alone do not do: the bytes in all are signed, too."""
    built = Built()
    built.archive()
    name = f"archives/{ONE}/00000000.zst.age"
    built.entries = [
        Entry(e.name, 11, "file") if e.name == name else e for e in built.entries
    ]
    result = built.judged(trust())
    assert {(f"archives/{ONE}", DAMAGE)} == grades(result)


def test_an_interrupted_transfer() -> None:
    """A part is a leftover wherever it lies, and spoils nothing."""
    built = Built()
    built.archive()
    names = [".part-0123456789abcdef", f"archives/{ONE}/.part-0123456789abcdef"]
    built.entries += [Entry(name, 5, "file") for name in names]
    result = built.judged(trust())
    assert {(name, LEFTOVER) for name in names} == grades(result)
    assert COMMITTED == result.archives[0].standing


@pytest.mark.parametrize(
    "name",
    [
        ".part-",
        ".part-../../etc/x",
        "x.part-0123456789abcdef",
        ".part-0123456789abcde ",
    ],
)
def test_what_only_looks_like_a_part(name: str) -> None:
    """A name that we would never write is foreign."""
    built = Built()
    built.entries.append(Entry(name, 5, "file"))
    assert {(name, DAMAGE)} == grades(built.judged(trust()))


@given(DIGESTS)
def test_sums_read_back(digests: dict[str, str]) -> None:
    """Sums parse to what they were made of, sorted, one line each."""
    data = format_sums(digests)
    assert digests == parse_sums(data, "x")
    assert sorted(digests) == [
        line.split("  ")[1] for line in data.decode().split("\n")[:-1]
    ]


@given(st.data())
def test_sums_that_are_altered(data: st.DataObject) -> None:
    """No two texts mean the same sums: what parses formats back to itself."""
    good = format_sums({"a": "0" * 64, "b.age": "1" * 64})
    place = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255))
    bad = good[:place] + bytes([byte]) + good[place + 1 :]
    try:
        parsed = parse_sums(bad, "x")
    except DamagedError:
        return
    lines = sorted(bad.decode().splitlines(keepends=True), key=lambda line: line[66:])
    assert "".join(lines).encode() == format_sums(parsed)


@pytest.mark.parametrize(
    "line",
    [
        f"{'0' * 64}  ../x",
        f"{'0' * 64}  a/b",
        f"{'0' * 64}  .hidden",
        f"{'0' * 64}  -rf",
        f"{'0' * 64}  a b",
        f"{'0' * 64} *a",
        f"{'A' * 64}  a",
        f"{'0' * 63}  a",
        f"\\{'0' * 64}  a",
        f"{'0' * 64}  a\r",
        "",
    ],
)
def test_sums_that_we_never_write(line: str) -> None:
    """A name that could lead elsewhere is refused, signed or not."""
    with pytest.raises(DamagedError):
        parse_sums(f"{line}\n".encode(), "x")


def test_sums_name_each_object_once() -> None:
    """A name that stands twice has two digests, and so none."""
    with pytest.raises(DamagedError):
        parse_sums(f"{'0' * 64}  a\n{'1' * 64}  a\n".encode(), "x")
    with pytest.raises(DamagedError):
        parse_sums(f"{'0' * 64}  a".encode(), "x")


NUMBERS = st.integers(0, 1 << 62)
IDS = st.binary(min_size=16, max_size=16).map(bytes.hex)


NOTHING_SAID = st.just(("", ""))
CHAIN = st.tuples(IDS | st.just(NONE), IDS | st.just(NONE)) | NOTHING_SAID


@given(
    vault=IDS,
    archive=IDS,
    numbers=st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS),
    chain=CHAIN,
)
def test_a_statement_reads_back(
    vault: str, archive: str, numbers: tuple[int, int, int, int], chain: tuple[str, str]
) -> None:
    """A statement is its text and nothing else."""
    objects, size, sequence, time = numbers
    one = Statement(
        "archive", vault, archive, objects, size, sequence, NONE, time, *chain
    )
    assert one == parse_statement(one.text(), "x")
    for bad in (one.text() + " ", one.text() + " more=1", " " + one.text()):
        with pytest.raises(DamagedError):
            parse_statement(bad, "x")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("objects=2", "objects=+2"),
        ("objects=2", "objects=02"),
        ("objects=2", "objects=two"),
        ("format=1", "format=2"),
        ("standfast archive", "standfast other"),
        ("standfast archive", "restic archive"),
        (f"vault={VAULT}", "vault=x"),
        (f"archive={ONE}", "archive=../.."),
        (" time=0", ""),
        ("previous=none", "previous=xyz"),
        ("base=none", "base=../.."),
        ("base=none ", ""),
        (" line=none", ""),
        ("line=none", "line=x"),
        ("base=none line=none", "line=none base=none"),
        ("base=none", "base="),
    ],
)
def test_a_statement_that_we_never_make(old: str, new: str) -> None:
    """Anything but our own words states nothing."""
    text = Statement("archive", VAULT, ONE, 2, 30, 1, NONE, 0, NONE, NONE).text()
    assert old in text
    parse_statement(text, "x")
    with pytest.raises(DamagedError):
        parse_statement(text.replace(old, new, 1), "x")


OLD_STATEMENT = (
    f"standfast archive format=1 vault={VAULT} archive={ONE} objects=2 bytes=30 "
    f"sequence=1 previous=none time=7"
)


def test_statements_of_older_releases_read() -> None:
    """Before there were increments a statement said nothing of a base."""
    old = parse_statement(OLD_STATEMENT, "x")
    assert ("", "") == (old.base, old.line)
    assert OLD_STATEMENT == old.text()


def test_a_vault_has_no_base() -> None:
    """Only archives build on each other."""
    text = f"standfast vault format=1 vault={VAULT} objects=3 bytes=3 sequence=0"
    parse_statement(f"{text} previous=none time=0", "x")
    with pytest.raises(DamagedError):
        parse_statement(f"{text} previous=none base=none line=none time=0", "x")


def test_an_increment_without_its_base() -> None:
    """What builds on an archive that is gone is damage, by name."""
    built = Built()
    built.archive(base=TWO)
    assert (f"archives/{ONE}", DAMAGE) in grades(built.judged(trust()))
    built.archive(TWO, base=NONE, sequence=2)
    assert set() == grades(built.judged(trust()))


SEEDS = st.binary(min_size=32, max_size=32)


@given(seed=SEEDS, vault=IDS, guid=NUMBERS, other=NUMBERS)
def test_lines_tell_datasets_apart(
    seed: bytes, vault: str, guid: int, other: int
) -> None:
    """One dataset is one line; another, its tree, or another signer is not."""
    line = line_name(seed, vault, guid, tree=False)
    assert line == line_name(seed, vault, guid, tree=False)
    assert line != line_name(seed, vault, guid, tree=True)
    assert line != line_name(bytes(b ^ 1 for b in seed), vault, guid, tree=False)
    assert (guid == other) == (line == line_name(seed, vault, other, tree=False))
