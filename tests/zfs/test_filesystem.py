"""Trees out of streams: what real senders sent, and what none would."""

from __future__ import annotations

import hashlib
import stat
import tarfile

import pytest
from conftest import incompressible, sample
from hypothesis import given
from hypothesis import strategies as st
from streammaker import StreamMaker, simple_tree
from trees import content, hashes, objects_of, outline_of, read_sample, tree_of, walk

from standfast.errors import (
    DamagedError,
    NoIdentityError,
    StandfastError,
    StreamError,
    UsageError,
)
from standfast.zfs.filesystem import FileSystem, Volume
from standfast.zfs.objects import Objects
from standfast.zfs.outline import Outline, Root
from standfast.zfs.outlining import OutlineWriter
from standfast.zfs.records import StreamCheck

REG, DIR, LNK = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK
# tests/cli.rs and docs/test-evidence.md of amcchord/zfs-send-explore.
PUBLISHED = {
    "full": {
        "payload/target.bin": "af2e223b435354ed53190ee2e9cbbe86"
        "12e90ab691639aa91f71dce0de47a027",
        "payload/embedded.bin": "fcf23bb6294ddeca564cb0cf6a256dd1"
        "5dc01516a792f644b694e172e4f7f89f",
    },
    "incremental": {
        "payload/target.bin": "c8a198dbc1e37af9ae2899906d7b9526"
        "6fc2c1e2e3f49f5a5b8c3463d14ef368",
        "payload/embedded.bin": "e45b0cd2e205653ec280d92f9bad6b9b"
        "793f0e98c948dac72cd0f558de7ba1c5",
    },
}


def stream(*names: str) -> bytes:
    return read_sample(sample("streams", *names))


def test_dedup_equals_the_published_tarball() -> None:
    """dedup.zsend, a compound stream with references, holds fs.tar.gz."""
    data = stream("openzfs", "dedup.zsend.bz2")
    ours = hashes(tree_of(data, last=0))
    sub = FileSystem(objects_of(data))
    ours |= {f"subfs/{path}": digest for path, digest in hashes(sub).items()}
    with tarfile.open(sample("streams", "openzfs", "fs.tar.gz")) as archive:
        theirs = {
            member.name.removeprefix("fs/"): hashlib.sha256(file.read()).hexdigest()
            for member in archive
            if (file := archive.extractfile(member)) is not None
        }
    assert theirs == ours


def test_published_hashes() -> None:
    """zstd, embedded blocks and an increment of OpenZFS 2.3.2."""
    full = stream("explore", "advanced-plain-full.zfs")
    increment = stream("explore", "advanced-plain-incremental.zfs")
    assert PUBLISHED["full"] == hashes(tree_of(full))
    assert PUBLISHED["incremental"] == hashes(tree_of(full, increment))


def test_every_way_to_the_same_snapshot() -> None:
    """Full, increments, -I, -p and -D of zfs-fuse lead to one and the same tree."""
    wanted = facts(tree_of(stream("zfs-fuse", "full_s3.zs.zst")))
    first = stream("zfs-fuse", "full_s1x.zs.zst")
    steps = [stream("zfs-fuse", f"inc_{name}.zs.zst") for name in ("s2", "s3")]
    assert wanted == facts(tree_of(first, *steps))
    assert wanted == facts(tree_of(first, stream("zfs-fuse", "I_s3.zs.zst")))
    assert wanted == facts(tree_of(stream("zfs-fuse", "p_s3.zs.zst")))
    assert wanted == facts(tree_of(stream("zfs-fuse", "D_s3.zs.zst")))
    assert 64 < len(wanted)


def facts(tree: FileSystem) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for file in walk(tree):
        a = file.attributes
        data = b""
        if stat.S_ISREG(a.mode):
            data = content(tree, file.number, a.size)
        if stat.S_ISLNK(a.mode):
            data = tree.link(file.number, a)
        digest = hashlib.sha256(data).hexdigest()
        size = 0 if stat.S_ISDIR(a.mode) else a.size
        found[file.path] = (a.mode, size, a.uid, a.gid, a.links, a.mtime, digest)
    return found


@pytest.mark.parametrize("form", ["NATIVE", "XDR"])
@pytest.mark.parametrize("order", ["big", "little"])
def test_every_record_type(order: str, form: str) -> None:
    """Names, attributes and spilled xattrs; contents that were redacted are said so."""
    name = f"{order}-endian-all-drr-types-base-{form}.zsend.bz2"
    tree = tree_of(stream("openzfs", name))
    files = {file.path: file for file in walk(tree)}
    assert 3 <= len(files)
    spilled = [len(tree.xattrs(file.attributes)) for file in files.values()]
    assert 8 <= max(spilled)
    with pytest.raises(StreamError, match="redacted"):
        hashes(tree)


def test_a_clone_of_a_redacted_snapshot_is_whole() -> None:
    """The increment brings what the base had left out."""
    base = stream("openzfs", "little-endian-all-drr-types-base-NATIVE.zsend.bz2")
    clone = stream("openzfs", "little-endian-all-drr-types-incr-NATIVE.zsend.bz2")
    assert 3 <= len(hashes(tree_of(base, clone, last=1)))


def test_both_byte_orders_hold_the_same() -> None:
    """16 MiB records, from a SPARC and a PC."""
    trees = [
        tree_of(stream("openzfs", f"{order}-endian-long-payloads.zsend.bz2"))
        for order in ("big", "little")
    ]
    for tree in trees:
        assert 3 == len(hashes(tree))
        assert 8_000_000 < max(file.attributes.size for file in walk(tree))


def test_raw_streams_say_that_they_are_encrypted() -> None:
    with pytest.raises(NoIdentityError, match="encrypted by ZFS with a passphrase"):
        tree_of(stream("explore", "encrypted-raw-s1.zfs"))
    with pytest.raises(NoIdentityError, match="does not open"):
        tree_of(stream("explore", "encrypted-raw-s1.zfs"), secrets=[b"wrong"])


def test_raw_streams_open_with_the_passphrase() -> None:
    """Each block has its tag; names, sizes and links show that bonuses are right."""
    secrets = [b"another dataset's", b"zfs-send-fixture-passphrase\n"]
    tree = tree_of(stream("explore", "encrypted-raw-s1.zfs"), secrets=secrets)
    (file,) = (f for f in walk(tree) if stat.S_ISREG(f.attributes.mode))
    assert ("docs/hello.txt", 16) == (file.path, file.attributes.size)
    assert b"encrypted hello\n" == content(tree, file.number, 16)
    assert 1 == file.attributes.links
    compressed = stream("openzfs", "decompress-crypt.zsend.bz2")
    tree = tree_of(compressed, secrets=[b"password"])
    files = {file.path: file for file in walk(tree)}
    assert {"frisky-crinkle", "frisky-giggle", "funky-juggle"} == files.keys()
    for file in files.values():
        text = content(tree, file.number, file.attributes.size)
        # Names end with their text: prose, to the last byte.
        assert text.decode("ascii").endswith("\n")


def test_a_raw_increment_inside_a_replication_stream() -> None:
    base = stream("openzfs", "little-endian-all-drr-types-base-NATIVE.zsend.bz2")
    more = stream("openzfs", "little-endian-all-drr-types-incr-NATIVE.zsend.bz2")
    tree = tree_of(base, more, secrets=[b"password"])
    files = {file.path: file for file in walk(tree)}
    small = files["small-encrypted"]
    assert b"very small\n" == content(tree, small.number, small.attributes.size)


def test_an_altered_encrypted_block_is_an_error() -> None:
    data = stream("openzfs", "decompress-crypt.zsend.bz2")
    chain = outline_of(data).substreams

    def read(_source: int, at: int, size: int) -> bytes:
        piece = bytearray(data[at : at + size])
        piece[size // 2] ^= 1
        return bytes(piece)

    tree = FileSystem(Objects(chain, read, secrets=[b"password"]))
    for file in walk(tree):
        with pytest.raises(StreamError, match="altered"):
            content(tree, file.number, file.attributes.size)


def test_a_block_that_is_too_short() -> None:
    """A stream that is sound but means nothing gives an error, and no file."""
    with pytest.raises(StreamError):
        hashes(tree_of(stream("openzfs", "undersized-write-lsize.zsend.bz2")))


@given(st.integers(1, 700))
def test_pieces_of_any_size(step: int) -> None:
    """How a stream is cut on its way changes nothing in its outline."""
    maker = simple_tree([(b"a", 8, REG), (b"b", 9, REG)])
    maker.file(8, b"eight" * 200)
    maker.file(9, b"")
    data = maker.done()
    whole, cut = outline_of(data), outline_of(data, step)
    for number in (1, 4, 8, 9):
        wanted = whole.substreams[0].records(number)
        assert wanted == cut.substreams[0].records(number)
        assert wanted
    assert whole.substreams[0].numbers() == cut.substreams[0].numbers()


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_made_tree(order: str) -> None:
    maker = simple_tree([(b"file", 8, REG), (b"deep", 9, DIR)], order=order)
    maker.file(8, b"hello")
    maker.folder(9, [(b"again", 8, REG)])
    tree = tree_of(maker.done())
    assert ["deep", "deep/again", "file"] == [file.path for file in walk(tree)]
    assert b"hello" == content(tree, tree.find(b"deep/again"), 5)
    assert 1_700_000_000_123_456_789 == tree.attributes(8).mtime
    with pytest.raises(UsageError, match="deep/nothing"):
        tree.find(b"deep/nothing")
    with pytest.raises(UsageError, match="not a folder"):
        tree.find(b"file/x")


@pytest.mark.parametrize("name", [b"..", b".", b"a/b", b"/etc"])
def test_names_that_lead_elsewhere(name: bytes) -> None:
    maker = simple_tree([(name, 8, REG)])
    maker.file(8, b"x")
    tree = tree_of(maker.done())
    with pytest.raises(StreamError, match="impossible name"):
        tree.entries(tree.root)


def test_what_an_increment_changes() -> None:
    """Overwritten, freed, freed with its neighbours, and made anew."""
    names = [(b"f%d" % n, n, REG) for n in range(8, 14)]
    full = simple_tree(names, guid=7)
    for number in range(8, 14):
        full.file(number, b"old-%d" % number)
    step = StreamMaker("pool/fs@two", 8, 7)
    step.write(8, 0, b"new-8".ljust(512, b"\0"))
    step.free(9, 0, 512)
    step.free_objects(10, 2)
    step.free_objects(12, 1)
    step.file(12, b"born again", mode=REG | 0o600)
    tree = tree_of(full.done(), step.done())
    assert b"new-8" == content(tree, 8, 5)
    assert bytes(5) == content(tree, 9, 5)
    for number in (10, 11):
        with pytest.raises(StreamError, match="missing"):
            tree.attributes(number)
    assert b"born again" == content(tree, 12, 10)
    assert 0o600 == stat.S_IMODE(tree.attributes(12).mode)
    assert b"old-13" == content(tree, 13, 6)
    objects = tree.objects
    assert {8, 9, 12} == objects.changed_in(1)
    assert objects.touched(11, 1)
    assert not objects.touched(13, 1)


def test_a_changed_block_size_drops_the_blocks() -> None:
    """As a receiver does, for what is not a switch to large blocks."""
    full = simple_tree([(b"f", 8, REG)], guid=7)
    full.file(8, b"x" * 1024)
    step = StreamMaker("pool/fs@two", 8, 7)
    step.object(8, 19, step.znode(REG | 0o644, 1024), block=512, bonus_kind=17)
    tree = tree_of(full.done(), step.done())
    assert bytes(1024) == content(tree, 8, 1024)


def test_a_switch_to_large_blocks_keeps_them() -> None:
    full = simple_tree([(b"f", 8, REG)], guid=7)
    bonus = full.znode(REG | 0o644, 1024)
    full.object(8, 19, bonus, block=512, bonus_kind=17)
    full.write(8, 0, b"a" * 512)
    full.write(8, 512, b"b" * 512)
    step = StreamMaker("pool/fs@two", 8, 7)
    step.object(8, 19, bonus, block=1024, bonus_kind=17)
    tree = tree_of(full.done(), step.done())
    assert b"a" * 512 + b"b" * 512 == content(tree, 8, 1024)


def test_references_that_go_round() -> None:
    maker = simple_tree([(b"f", 8, REG)], guid=7)
    maker.file(8, b"", size=512)
    maker.refer(8, 0, 512, (7, 8, 0))
    with pytest.raises(StreamError, match="circle"):
        hashes(tree_of(maker.done()))


def test_references_to_nowhere() -> None:
    for target in ((99, 8, 0), (7, 77, 0)):
        maker = simple_tree([(b"f", 8, REG)], guid=7)
        maker.file(8, b"", size=512)
        maker.refer(8, 0, 512, target)
        with pytest.raises(StreamError, match=r"which is not there"):
            hashes(tree_of(maker.done()))


def test_an_increment_alone() -> None:
    with pytest.raises(StreamError, match="no full stream"):
        tree_of(StreamMaker("pool/fs@two", 8, 7).done())


def test_a_volume() -> None:
    maker = StreamMaker("pool/vol@s", 3, kind=3)
    maker.object(1, 23, block=8192)
    maker.write(1, 8192, b"z" * 8192, 23)
    maker.object(2, 24)
    maker.write(2, 0, maker.micro_block([(b"size", 1 << 20)]), 24)
    data = maker.done()
    volume = Volume(objects_of(data))
    assert 1 << 20 == volume.size
    assert [(8192, b"z" * 8192)] == list(volume.contents())
    with pytest.raises(StreamError, match="no file system"):
        tree_of(data)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)), min_size=1, max_size=12)
)
def test_freed_ranges_of_any_shape(ranges: list[tuple[int, int]]) -> None:
    """The last range that covers an object counts, in whatever order they came."""
    maker = StreamMaker("pool/fs@two", 8, 7)
    oracle: dict[int, int] = {}
    for number, (first, count) in enumerate(ranges):
        maker.free_objects(first, count)
        for freed in range(first, first + count):
            oracle[freed] = number
    part = outline_of(maker.done()).substreams[0]
    for number in range(70):
        wanted = 312 * (1 + oracle[number]) if number in oracle else -1
        assert wanted == part.freed(number)


@given(st.data())
def test_damaged_metadata_is_an_error(draw: st.DataObject) -> None:
    """Any change of any block gives an error or a tree, and no other end."""
    maker = simple_tree([(b"file", 8, REG), (b"link", 9, LNK)])
    maker.file(8, b"hello")
    maker.file(9, b"target", mode=LNK | 0o777)
    data = bytearray(maker.done())
    for _ in range(draw.draw(st.integers(1, 4))):
        place = draw.draw(st.integers(312, len(data) - 313))
        data[place] = draw.draw(st.integers(0, 255))
    out = StreamMaker("pool/fs@snap", 7)
    out.out = data[:-312]
    try:
        tree = tree_of(out.done())
        for file in walk(tree):
            if stat.S_ISREG(file.attributes.mode) and file.attributes.size < 1 << 20:
                content(tree, file.number, file.attributes.size)
            if stat.S_ISLNK(file.attributes.mode):
                tree.link(file.number, file.attributes)
    except (StandfastError, RecursionError, AssertionError, UnicodeDecodeError):
        pass


def test_an_index_that_was_altered() -> None:
    """Each byte of an outline is covered by the root's digest."""
    maker = simple_tree([(b"file", 8, REG)])
    maker.file(8, b"hello")
    out = bytearray()
    writer = OutlineWriter(out.extend)
    check = StreamCheck(writer)
    check.feed(maker.done())
    check.finish()
    root = writer.finish()
    assert root.offset + root.size == len(out)
    for place in range(0, len(out), 7):
        broken = bytearray(out)
        broken[place] ^= 1
        with pytest.raises(DamagedError):
            open_and_look(bytes(broken), root)


def open_and_look(data: bytes, root: Root) -> None:
    outline = Outline(lambda at, size: data[at : at + size], root)
    assert outline.substreams[0].records(8)


def test_pages_stay_small_whatever_comes_at_once() -> None:
    """A whole segment in one piece makes many pages, as pieces of it would."""
    maker = StreamMaker("pool/fs@snap", 7)
    for number in range(8, 3000):
        maker.file(number, b"x")
    for number in range(3000, 3020):
        maker.object(number, 20, block=1 << 17)
        maker.write(number, 0, incompressible(1 << 17, number), 20)
    data = maker.done()
    part = outline_of(data, len(data)).substreams[0]
    assert 15 <= part.part.pages
    assert {*range(8, 3020)} == part.numbers()
    assert incompressible(1 << 17, 3019) == part.records(3019)[1].held


def test_lengths_that_would_fill_memory() -> None:
    """A reference to exabytes, and a volume of them, are refused by their size."""
    maker = simple_tree([(b"f", 8, REG)], guid=7)
    maker.file(8, b"", size=1 << 62)
    maker.refer(8, 0, 1 << 62, (7, 8, 0))
    with pytest.raises(StreamError, match="cannot be"):
        tree_of(maker.done()).read(8, 0, 10)
    volume = StreamMaker("pool/vol@s", 3, kind=3)
    volume.object(1, 23, block=8192)
    volume.object(2, 24)
    volume.write(2, 0, volume.micro_block([(b"size", (1 << 64) - 1)]), 24)
    with pytest.raises(StreamError, match="how large"):
        Volume(objects_of(volume.done()))
