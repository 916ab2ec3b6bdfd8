"""A tree into a tar stream: order, what is in it and what is left out, and what a tree that moves can do to it."""

import os
import stat
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import deep
import peers
from orlop.errors import ContentChanged, NotSupported, UnsafePath
from orlop.formats.tarheader import CHAR, DIRECTORY, HARD_LINK, REGULAR, SYMLINK, Entry
from orlop.model.changes import Change
from orlop.model.idmap import IDMap, IDMappings
from orlop.stream import pack
from orlop.stream.lowers import Lowers
from orlop.stream.pack import pack_changes, pack_tree
from orlop.stream.pieces import FilePiece, PieceStream
from orlop.stream.reader import TarReader
from orlop.stream.writer import TRAILER
from orlop.system.descent import Descent
from orlop.system.xattrs import OPAQUE_ROOTLESS

TIME = 1_600_000_000
OPAQUE = OPAQUE_ROOTLESS  # tests that are not root's use the attribute that a user may set


def stream_of(pieces: Iterator[bytes | FilePiece]) -> bytes:
    with PieceStream(pieces) as stream:
        return stream.read()


def members(pieces: Iterator[bytes | FilePiece]) -> dict[bytes, tuple[Entry, bytes]]:
    stream = stream_of(pieces)
    assert stream.endswith(TRAILER)
    reader = TarReader([stream])
    found = [(entry, b"".join(reader.payload())) for entry in reader]
    assert len({entry.name for entry, _ in found}) == len(found)
    return {entry.name: (entry, content) for entry, content in found}


def write(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.fixture(params=["guarded", "unguarded"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tree guarded from the first entry on, and without a guard as where the kernel gives none."""
    monkeypatch.setattr(pack, "GUARD_AFTER", 0)
    if request.param == "unguarded":
        monkeypatch.setattr(Descent, "guard", lambda self: False)
    else:
        peers.need_root()


# --- a tree that stands still -------------------------------------------------------------------------------


def test_a_directory_comes_before_its_content_and_names_go_by_bytes(tmp_path: Path) -> None:
    for name in ("a/c", "a/b", "a-b", "a.c", "Z", "ü", "\udcff"):
        write(tmp_path / name)
    names = [b"Z", b"a/", b"a/b", b"a/c", b"a-b", b"a.c", b"\xc3\xbc", b"\xff"]
    assert list(members(pack_tree(str(tmp_path)))) == names


def test_headers_say_what_lstat_says(tmp_path: Path) -> None:
    path = write(tmp_path / "f", b"content")
    path.chmod(0o2640)
    os.utime(path, ns=(0, TIME * 10**9 + 999_999_999))
    os.utime(write(tmp_path / "old"), ns=(0, -1))
    os.symlink("to/there", tmp_path / "link")
    (tmp_path / "d").mkdir(mode=0o700)
    (tmp_path / "d").chmod(0o1700)
    found = members(pack_tree(str(tmp_path)))
    entry, content = found[b"f"]
    assert (entry.type, entry.mode, content) == (REGULAR, 0o2640, b"content")
    assert (entry.uid, entry.gid) == (os.getuid(), os.getgid())
    assert entry.mtime_ns == TIME * 10**9, "cut to seconds, not rounded"
    assert found[b"old"][0].mtime_ns == -(10**9), "before 1970, too, the earlier second"
    entry = found[b"link"][0]
    assert (entry.type, entry.linkname, entry.size) == (SYMLINK, b"to/there", 0)
    assert (found[b"d/"][0].type, found[b"d/"][0].mode) == (DIRECTORY, 0o1700)


def test_sockets_are_left_out_without_a_word(tmp_path: Path) -> None:
    os.mknod(tmp_path / "socket", stat.S_IFSOCK | 0o600)
    skipped: list[object] = []
    assert members(pack_tree(str(tmp_path), on_skip=lambda *what: skipped.append(what))) == {}
    assert skipped == []


def test_the_first_name_of_a_file_is_the_file_and_others_are_links(tmp_path: Path) -> None:
    write(tmp_path / "b/first", b"content")
    os.link(tmp_path / "b/first", tmp_path / "b/second")
    os.link(tmp_path / "b/first", tmp_path / "c")
    write(tmp_path / "d")
    os.link(tmp_path / "d", tmp_path / "e")
    os.symlink("x", tmp_path / "link")
    os.link(tmp_path / "link", tmp_path / "link2", follow_symlinks=False)
    write(tmp_path / "outside-too", b"1")
    os.link(tmp_path / "outside-too", tmp_path.parent / f"{tmp_path.name}-outside")
    found = members(pack_tree(str(tmp_path)))
    assert {name: (e.type, e.linkname) for name, (e, _) in found.items()} == {
        b"b/": (DIRECTORY, b""),
        b"b/first": (REGULAR, b""),
        b"b/second": (HARD_LINK, b"b/first"),
        b"c": (HARD_LINK, b"b/first"),
        b"d": (REGULAR, b""),
        b"e": (HARD_LINK, b"d"),
        b"link": (SYMLINK, b"x"),
        b"link2": (HARD_LINK, b"link"),
        b"outside-too": (REGULAR, b""),
    }
    assert found[b"c"][0].size == 0


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, pack.SMALL, pack.SMALL + 1, 3 << 20])
@pytest.mark.usefixtures("either_way")
def test_content_of_any_size_comes_out(size: int, tmp_path: Path) -> None:
    content = os.urandom(size)
    write(tmp_path / "d/before", b"1")
    write(tmp_path / "d/f", content)
    write(tmp_path / "d/later", b"2")
    found = members(pack_tree(str(tmp_path)))
    assert list(found) == [b"d/", b"d/before", b"d/f", b"d/later"]
    assert found[b"d/f"][1] == content
    assert found[b"d/later"][1] == b"2"


def test_many_small_files_are_handed_out_in_bounded_pieces(tmp_path: Path) -> None:
    for number in range(60):
        write(tmp_path / f"f{number}", bytes(60_000))
    pieces = list(pack_tree(str(tmp_path)))
    assert 3 <= len(pieces) <= 6
    assert all(
        isinstance(piece, bytes) and len(piece) < pack.GATHERED + pack.SMALL + 2048 for piece in pieces
    )


def test_guarded_or_not_the_stream_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peers.need_root()
    for number in range(50):
        path = write(tmp_path / f"d{number % 7}" / f"f{number}", b"x" * number)
        os.chown(path, number, number)
        if number % 5 == 0:
            os.setxattr(path, "user.number", b"%d" % number)
        if number % 6 == 0:
            os.link(path, tmp_path / f"link{number}")
        if number % 9 == 0:
            os.symlink("x", tmp_path / f"symlink{number}")
    maps = IDMappings([IDMap(0, 0, 40)], [IDMap(5, 0, 60)])
    streams = []
    for after in (0, 10**9):
        monkeypatch.setattr(pack, "GUARD_AFTER", after)
        streams.append(stream_of(pack_tree(str(tmp_path), mappings=maps)))
    assert streams[0] == streams[1]


def test_depth_costs_no_memory(tmp_path: Path) -> None:
    with deep.chain(tmp_path, 4000):
        tracemalloc.start()
        try:
            length = sum(len(piece) for piece in pack_tree(str(tmp_path)) if isinstance(piece, bytes))
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()
    assert length > 4000 * 4000 * 5 / 2


def test_a_tree_deeper_than_any_path_or_stack_is_packed(tmp_path: Path) -> None:
    with deep.chain(tmp_path, 1200) as bottom:
        os.mkdir("last", dir_fd=bottom)
        os.close(os.open("file", os.O_CREAT, dir_fd=bottom))
        names = list(members(pack_tree(str(tmp_path))))
    assert len(names) == 1202
    assert names[-2:] == [b"deep/" * 1200 + b"file", b"deep/" * 1200 + b"last/"]


def test_attributes_that_belong_into_a_layer_are_carried(tmp_path: Path) -> None:
    path = write(tmp_path / "f", b"x")
    (tmp_path / "d").mkdir()
    try:
        for name in ("user.a", "user.overlay.opaque", "user.b"):
            os.setxattr(path, name, b"1\0")
        os.setxattr(tmp_path / "d", "user.d", b"")
    except OSError:
        peers.missing("a temporary directory whose file system has extended attributes")
    found = members(pack_tree(str(tmp_path)))
    assert found[b"f"][0].xattrs == {b"user.a": b"1\0", b"user.b": b"1\0"}
    assert found[b"d/"][0].xattrs == {b"user.d": b""}


def test_an_attribute_that_tar_cannot_hold_ends_the_stream(tmp_path: Path) -> None:
    path = write(tmp_path / "f", b"x")
    try:
        os.setxattr(path, "user.a=b", b"1")
    except OSError:
        peers.missing("a temporary directory whose file system has extended attributes")
    with pytest.raises(NotSupported, match=r"user\.a=b"):
        stream_of(pack_tree(str(tmp_path)))


@pytest.mark.usefixtures("either_way")
def test_owners_are_the_containers_and_strangers_are_reported(tmp_path: Path) -> None:
    peers.need_root()
    for name, owner in (("d/mapped", 100_005), ("d/stranger", 5), ("d/.wh.kept", 5)):
        os.chown(write(tmp_path / name, b"x"), owner, owner)
    os.chown(tmp_path / "d", 100_000, 100_000)
    maps = IDMappings([IDMap(0, 100_000, 10)], [IDMap(0, 100_000, 10)])
    skipped: list[tuple[bytes, str]] = []
    found = members(
        pack_tree(
            str(tmp_path), mappings=maps, on_skip=lambda path, error: skipped.append((path, str(error)))
        )
    )
    assert {name: (e.uid, e.gid) for name, (e, _) in found.items()} == {
        b"d/": (0, 0),
        b"d/.wh.kept": (5, 5),
        b"d/mapped": (5, 5),
    }
    assert skipped == [(b"d/stranger", "host ID 5 cannot be mapped to a container ID")]


@pytest.mark.parametrize(
    ("include", "names"),
    [
        ((b"a",), [b"a/", b"a/b/", b"a/b/c", b"a/d"]),
        ((b"a/b",), [b"a/b/", b"a/b/c"]),
        ((b"e", b"a/d"), [b"e", b"a/d"]),
        ((b"a/b", b"a", b"e", b"."), [b"a/b/", b"a/b/c", b"a/", b"a/d", b"e", b"f"]),
        ((b"gone", b"e/below-a-file", b"link/c", b"e"), [b"e"]),
        ((), []),
    ],
)
def test_only_what_is_included_is_packed_and_nothing_twice(
    include: tuple[bytes, ...], names: list[bytes], tmp_path: Path
) -> None:
    for name in ("a/b/c", "a/d", "e", "f"):
        write(tmp_path / "root" / name, b"x")
    write(tmp_path / "outside/c")
    os.symlink("../outside", tmp_path / "root/link")
    if b"." in include:
        (tmp_path / "root/link").unlink()
    assert list(members(pack_tree(str(tmp_path / "root"), include=include))) == names


def test_an_include_does_not_climb(tmp_path: Path) -> None:
    with pytest.raises(UnsafePath):
        stream_of(pack_tree(str(tmp_path), include=(b"../etc",)))


def test_a_root_that_is_no_directory_is_the_only_entry(tmp_path: Path) -> None:
    write(tmp_path / "f", b"content")
    write(tmp_path / "g")
    found = members(pack_tree(str(tmp_path / "f")))
    assert {name: content for name, (_, content) in found.items()} == {b"f": b"content"}


def test_times_are_whole_seconds_unless_exact_ones_are_wanted(tmp_path: Path) -> None:
    """Layers as the peers write them; copies as they were."""
    write(tmp_path / "f", b"1")
    os.utime(tmp_path / "f", ns=(0, 1_600_000_000_123_456_789))
    assert members(pack_tree(str(tmp_path)))[b"f"][0].mtime_ns == 1_600_000_000_000_000_000
    exact = members(pack_tree(str(tmp_path), exact_times=True))
    assert exact[b"f"][0].mtime_ns == 1_600_000_000_123_456_789


@pytest.mark.parametrize("size", [0, 10, pack.SMALL + 1])
def test_an_open_handle_is_the_only_entry_under_the_name_given(size: int, tmp_path: Path) -> None:
    content = os.urandom(size)
    write(tmp_path / "f", content)
    os.utime(tmp_path / "f", ns=(0, 1_600_000_000_123_456_789))
    handle = os.open(tmp_path / "f", os.O_PATH)
    try:
        (tmp_path / "f").rename(tmp_path / "elsewhere")
        found = members(pack.pack_handle(handle, b"new name"))
    finally:
        os.close(handle)
    assert {name: data for name, (_, data) in found.items()} == {b"new name": content}
    assert found[b"new name"][0].mtime_ns == 1_600_000_000_123_456_789


def test_a_root_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        stream_of(pack_tree(str(tmp_path / "gone")))


def test_an_empty_tree_is_a_trailer(tmp_path: Path) -> None:
    assert stream_of(pack_tree(str(tmp_path))) == TRAILER


# --- a tree that moves --------------------------------------------------------------------------------------


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes, Callable[[], object]], None]:
    """between(name, act): act when a directory that lists `name` has been listed, and nothing of it was seen."""

    def arrange(name: bytes, act: Callable[[], object]) -> None:
        real = Descent.entries

        def entries(self: Descent) -> list[tuple[bytes, int, int]]:
            found = real(self)
            if any(entry[0] == name for entry in found):
                act()
            return found

        monkeypatch.setattr(Descent, "entries", entries)

    return arrange


@pytest.mark.usefixtures("either_way")
def test_a_directory_swapped_for_a_symlink_is_a_symlink(tmp_path: Path, between: Callable[..., None]) -> None:
    """CVE-2018-15664: what lies outside must not get into the stream."""
    write(tmp_path / "outside/secret", b"the host's")
    write(tmp_path / "root/d/inside/f", b"x")
    inside = tmp_path / "root/d/inside"

    def swap() -> None:
        inside.rename(tmp_path / "root/d/moved")
        os.symlink("/../../outside", inside)

    between(b"inside", swap)
    skipped: list[bytes] = []
    found = members(pack_tree(str(tmp_path / "root"), on_skip=lambda path, _: skipped.append(path)))
    assert list(found) == [b"d/", b"d/inside"]
    assert skipped == []
    assert found[b"d/inside"][0].linkname == b"/../../outside"


@pytest.mark.parametrize("what", ["symlink", "fifo", "device", "directory", "nothing"])
@pytest.mark.usefixtures("either_way")
def test_a_file_swapped_for_something_else_is_that(
    what: str, tmp_path: Path, between: Callable[..., None]
) -> None:
    """Neither hangs on a FIFO nor opens a device, which can mean a lot to a tape or a watchdog."""
    if what == "device":
        peers.need_root()
    secret = write(tmp_path / "secret", b"the host's")
    path = write(tmp_path / "root/d/f", b"content")
    act = {
        "symlink": lambda: os.symlink(secret, path),
        "fifo": lambda: os.mkfifo(path),
        "device": lambda: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 8)),
        "directory": lambda: write(path / "below"),
        "nothing": lambda: None,
    }[what]

    def swap() -> None:
        path.unlink()
        act()

    between(b"f", swap)
    skipped: list[bytes] = []
    found = members(pack_tree(str(tmp_path / "root"), on_skip=lambda name, _: skipped.append(name)))
    found.pop(b"d/")
    kinds = {name: chr(entry.type) for name, (entry, _) in found.items()}
    name, kind = {"symlink": (b"d/f", "2"), "fifo": (b"d/f", "6"), "device": (b"d/f", "3")}.get(
        what, (b"", "")
    )
    if what == "directory":
        name, kind = b"d/f/", "5"
    assert kinds == ({name: kind} if name else {})
    assert skipped == ([b"d/f"] if what == "nothing" else [])


@pytest.mark.parametrize("size", [1000, 1_000_000])
@pytest.mark.usefixtures("either_way")
def test_a_file_that_shrinks_while_it_is_read_is_an_error(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header promised more. Zeros in its place would be a layer that nobody wrote."""
    path = write(tmp_path / "d/f", bytes(size))
    real = pack.encode

    def encode(entry: Entry) -> bytes:
        if entry.name == b"d/f":
            os.truncate(path, 10)
        return real(entry)

    monkeypatch.setattr(pack, "encode", encode)
    with pytest.raises(ContentChanged, match=r'"d/f" ended after 10 of its'):
        stream_of(pack_tree(str(tmp_path)))


@pytest.mark.parametrize("size", [1000, 1_000_000])
@pytest.mark.usefixtures("either_way")
def test_a_file_that_grows_while_it_is_read_is_cut(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "d/f", b"1" * size)
    write(tmp_path / "d/g", b"next")
    real = pack.encode

    def encode(entry: Entry) -> bytes:
        if entry.name == b"d/f":
            with path.open("ab") as file:
                file.write(b"2" * 5000)
        return real(entry)

    monkeypatch.setattr(pack, "encode", encode)
    found = members(pack_tree(str(tmp_path)))
    assert found[b"d/f"][1] == b"1" * size
    assert found[b"d/g"][1] == b"next"


def test_a_file_that_cannot_be_read_ends_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was prepared; without its content the layer would only look complete."""
    write(tmp_path / "f", b"x")

    def refuse(name: bytes, flags: int, dir_fd: int | None = None) -> int:
        raise PermissionError(13, "Permission denied", name)

    monkeypatch.setattr(pack, "open_unnoticed", refuse)
    with pytest.raises(PermissionError) as caught:
        stream_of(pack_tree(str(tmp_path)))
    assert caught.value.filename == b"f"


def test_a_directory_that_may_not_be_read_is_an_empty_one_and_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "locked/f")
    write(tmp_path / "open/f")
    real = Descent.enter

    def enter(self: Descent, name: bytes) -> None:
        if name == b"locked":
            raise PermissionError(13, "Permission denied", name)
        real(self, name)

    monkeypatch.setattr(Descent, "enter", enter)
    skipped: list[bytes] = []
    names = list(members(pack_tree(str(tmp_path), on_skip=lambda name, _: skipped.append(name))))
    assert names == [b"locked/", b"open/", b"open/f"]
    assert skipped == [b"locked"]


def test_other_errors_end_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "f")

    def fail(*_: object, **__: object) -> dict[bytes, bytes]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(pack.xattrs, "read", fail)
    with pytest.raises(OSError, match="Input/output"):
        stream_of(pack_tree(str(tmp_path)))


def test_giving_up_early_closes_everything(tmp_path: Path) -> None:
    """At every piece, the large file's own included (the fixture looks for what stays open)."""
    for name in ("a/b/c", "d/e"):
        write(tmp_path / name, bytes(200_000))
    total = len(list(_owned(pack_tree(str(tmp_path)))))
    assert total == 5
    for stop in range(total + 1):
        pieces = pack_tree(str(tmp_path))
        for _, _piece in zip(range(stop), _owned(pieces), strict=False):
            pass
        pieces.close()  # type: ignore[attr-defined]


def _owned(pieces: Iterator[bytes | FilePiece]) -> Iterator[object]:
    for piece in pieces:
        if isinstance(piece, FilePiece):
            piece.close()
        yield piece


# --- overlay ------------------------------------------------------------------------------------------------


def opaque(path: Path, value: bytes = b"y") -> None:
    path.mkdir(parents=True, exist_ok=True)
    try:
        os.setxattr(path, OPAQUE, value)
    except OSError:
        peers.missing("a temporary directory whose file system has extended attributes")


def deleted(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(path, stat.S_IFCHR, 0)  # since Linux 5.8 anybody may


def test_whiteouts_become_names_and_never_links(tmp_path: Path) -> None:
    """The kernel gives all its whiteouts one inode; the peers make links of them, which unpack as no deletion."""
    deleted(tmp_path / "d/b")
    os.link(tmp_path / "d/b", tmp_path / "d/c")
    os.link(tmp_path / "d/b", tmp_path / "z")
    os.utime(tmp_path / "z", ns=(0, TIME * 10**9 + 5))
    write(tmp_path / "d/a", b"x")
    found = members(pack_tree(str(tmp_path), whiteouts=OPAQUE))
    assert list(found) == [b"d/", b"d/a", b"d/.wh.b", b"d/.wh.c", b".wh.z"]
    for name in (b"d/.wh.b", b"d/.wh.c", b".wh.z"):
        entry = found[name][0]
        assert (entry.type, entry.mode, entry.size, entry.linkname) == (REGULAR, 0, 0, b"")
        assert entry.mtime_ns == TIME * 10**9
        assert (entry.uid, entry.gid) == (os.getuid(), os.getgid())


def test_whiteouts_of_a_mapped_layer_stay(tmp_path: Path) -> None:
    """They belong to the host's root, which the maps do not cover; the peers lose them and with them the deletion."""
    deleted(tmp_path / "gone")
    maps = IDMappings([IDMap(0, 100_000, 10)], [IDMap(0, 100_000, 10)])
    found = members(pack_tree(str(tmp_path), whiteouts=OPAQUE, mappings=maps))
    assert list(found) == [b".wh.gone"]


def test_without_conversion_a_whiteout_is_a_device(tmp_path: Path) -> None:
    deleted(tmp_path / "d")
    assert members(pack_tree(str(tmp_path)))[b"d"][0].type == CHAR


def test_a_mark_is_written_where_the_nearest_lower_has_something(tmp_path: Path) -> None:
    upper, near, far = (tmp_path / name for name in ("upper", "near", "far"))
    for name in ("both", "far-only", "deleted-near", "d/parent-deleted", "file-near", "nobody", "link"):
        opaque(upper / name)
    opaque(upper / "not-y", b"x")
    for name in ("both", "far-only", "deleted-near", "d/parent-deleted", "not-y", "f/below-file"):
        (far / name).mkdir(parents=True)
    (near / "both").mkdir(parents=True)
    opaque(upper / "f/below-file")
    write(near / "file-near")
    write(near / "f")  # a file where the path goes on: absent here, and the next lower is asked
    deleted(near / "deleted-near")
    deleted(near / "d")
    os.symlink("nowhere", near / "link")
    (upper / "both").chmod(0o1751)
    found = members(pack_tree(str(upper), whiteouts=OPAQUE, lowers=[str(near), str(far)]))
    marked = [name.removesuffix(b"/.wh..wh..opq") for name in found if name.endswith(b"/.wh..wh..opq")]
    assert marked == [b"both", b"f/below-file", b"far-only", b"file-near", b"link"]
    names = list(found)
    assert names[names.index(b"both/") + 1] == b"both/.wh..wh..opq", "directly behind its directory"
    mark = found[b"both/.wh..wh..opq"][0]
    assert (mark.type, mark.mode, mark.size, mark.mtime_ns) == (REGULAR, 0o751, 0, 0)
    assert (mark.uid, mark.gid) == (os.getuid(), os.getgid())
    assert found[b"both/"][0].xattrs is None, "the mark of the file system stays at home"


def test_without_lowers_there_is_nothing_to_hide(tmp_path: Path) -> None:
    opaque(tmp_path / "d")
    assert list(members(pack_tree(str(tmp_path), whiteouts=OPAQUE))) == [b"d/"]


def test_a_mark_has_the_containers_owner(tmp_path: Path) -> None:
    peers.need_root()
    opaque(tmp_path / "upper/d")
    (tmp_path / "lower/d").mkdir(parents=True)
    os.chown(tmp_path / "upper/d", 100_003, 100_004)
    maps = IDMappings([IDMap(0, 100_000, 10)], [IDMap(0, 100_000, 10)])
    lowers = [str(tmp_path / "lower")]
    found = members(pack_tree(str(tmp_path / "upper"), whiteouts=OPAQUE, lowers=lowers, mappings=maps))
    assert [(e.name, e.uid, e.gid) for e, _ in found.values()] == [(b"d/", 3, 4), (b"d/.wh..wh..opq", 3, 4)]


def test_lowers_do_not_follow_symlinks_out_of_the_layer(tmp_path: Path) -> None:
    (tmp_path / "outside/x").mkdir(parents=True)
    (tmp_path / "lower").mkdir()
    os.symlink(tmp_path / "outside", tmp_path / "lower/d")
    with Lowers([str(tmp_path / "lower")]) as lowers:
        assert lowers.find(b"d/x") is None
        found = lowers.find(b"d")
        assert found is not None
        assert stat.S_ISLNK(found.st_mode)


def test_a_lower_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with Lowers([str(tmp_path), str(tmp_path / "gone")]) as lowers, pytest.raises(FileNotFoundError):
        lowers.find(b"name")


def test_five_hundred_lowers_need_few_descriptors(tmp_path: Path) -> None:
    """As many as an overlay may have; the furthest is found, and so is a deletion in the one before it."""
    deep = "/".join("abcdefghijklmnop")
    directories = [tmp_path / f"{number}" for number in range(500)]
    for directory in directories:
        (directory / deep).mkdir(parents=True)
    write(directories[-1] / deep / "far")
    write(directories[-1] / deep / "deleted")
    deleted(directories[-2] / deep / "deleted")
    with Lowers(map(str, directories)) as lowers:
        for _ in range(2):
            assert lowers.find(os.fsencode(f"{deep}/far")) is not None
            assert lowers.find(os.fsencode(f"{deep}/deleted")) is None
            assert lowers.find(os.fsencode(f"{deep}/nowhere")) is None
        assert len(os.listdir("/proc/self/fd")) < 300


# --- changes ------------------------------------------------------------------------------------------------


def test_changes_go_out_in_the_order_of_whole_paths(tmp_path: Path) -> None:
    """`-` and `.` sort before `/`: another order than a tree's, and both are right."""
    for name in ("a/b", "a-b", "a.c"):
        write(tmp_path / name, b"x")
    changes = [Change(path, "A") for path in (b"/a/b", b"/a.c", b"/a-b", b"/a")]
    assert list(members(pack_changes(str(tmp_path), changes))) == [b"a/", b"a-b", b"a.c", b"a/b"]


def test_a_deletion_is_an_empty_file_of_now_in_the_place_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack.time, "time_ns", lambda: TIME * 10**9 + 500_000_000)
    write(tmp_path / "d/z")
    changes = [
        Change(b"/d", "C"),
        Change(b"/d/n", "D"),
        Change(b"/d/z", "C"),
        Change(b"/x", "D"),
        Change(b"/c", "D"),
    ]
    found = members(pack_changes(str(tmp_path), changes))
    assert list(found) == [b".wh.c", b"d/", b"d/.wh.n", b"d/z", b".wh.x"]
    entry = found[b"d/.wh.n"][0]
    assert (entry.type, entry.mode, entry.uid, entry.gid, entry.size) == (REGULAR, 0, 0, 0, 0)
    assert entry.mtime_ns == (TIME + 1) * 10**9, "the nearest second"


def test_links_are_seen_among_the_listed_names_only(tmp_path: Path) -> None:
    write(tmp_path / "a", b"content")
    for name in ("b", "c"):
        os.link(tmp_path / "a", tmp_path / name)
    found = members(pack_changes(str(tmp_path), [Change(b"/b", "A"), Change(b"/c", "C")]))
    assert [(e.name, e.type, e.linkname) for e, _ in found.values()] == [
        (b"b", REGULAR, b""),
        (b"c", HARD_LINK, b"b"),
    ]
    assert found[b"b"][1] == b"content"


def test_changes_that_are_gone_or_led_astray_are_left_out_and_reported(tmp_path: Path) -> None:
    write(tmp_path / "outside/secret", b"the host's")
    root = tmp_path / "root"
    write(root / "real/f", b"x")
    write(root / "file")
    os.symlink("../outside", root / "link")
    changes = [
        Change(path, "A") for path in (b"/gone", b"/link/secret", b"/file/below", b"/no/parent", b"/real/f")
    ]
    skipped: list[bytes] = []
    found = members(pack_changes(str(root), changes, on_skip=lambda path, _: skipped.append(path)))
    assert list(found) == [b"real/f"]
    assert skipped == [b"file/below", b"gone", b"link/secret", b"no/parent"]


@pytest.mark.parametrize("path", [b"/../etc/passwd", b"/a/../../b", b"/", b"/a//b"])
@pytest.mark.parametrize("kind", ["A", "D"])
def test_a_change_that_is_no_plain_path_is_refused(path: bytes, kind: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafePath):
        stream_of(pack_changes(str(tmp_path), [Change(path, kind)]))  # type: ignore[arg-type]


def test_large_files_of_changes_go_out_by_handle(tmp_path: Path) -> None:
    content = os.urandom(300_000)
    write(tmp_path / "a", content)
    write(tmp_path / "b", b"after")
    found = members(pack_changes(str(tmp_path), [Change(b"/a", "C"), Change(b"/b", "A")]))
    assert [content for _, content in found.values()] == [content, b"after"]


def test_the_listed_vector_of_changes(tmp_path: Path) -> None:
    """`spec/archive.md` Appendix B, vfs. (`tests/interop/test_pack_peer.py` has the peer's own bytes.)"""
    from orlop.stream.compare import compare_trees

    peers.need_root()
    old, new = tmp_path / "old", tmp_path / "new"
    os.chown(write(old / "biguid"), 3_000_000, 3_000_000)
    write(old / "dir/new")
    (old / "emptydir").mkdir()
    write(old / "xa")
    os.chown(write(new / "biguid"), 3_000_000, 3_000_000)
    (new / "biguid").chmod(0)
    write(new / "a/b/f", b"x")
    os.link(new / "a/b/f", new / "a/hl")
    os.setxattr(write(new / "a-b"), "user.q", b"1")
    os.setxattr(new / "a-b", "trusted.zz", b"1")
    os.setxattr(write(new / "a.c"), "security.ima", b"1")
    write(new / "dir/z")
    (new / "emptydir2").mkdir()
    os.mknod(new / "sock", stat.S_IFSOCK | 0o600)
    changes = compare_trees(str(new), str(old))
    kinds = {
        "A": "a a-b a.c a/b a/b/f a/hl dir/z emptydir2 sock",
        "C": "biguid dir",
        "D": "dir/new emptydir xa",
    }
    assert {(str(change)[0], str(change)[3:]) for change in changes} == {
        (kind, name) for kind, names in kinds.items() for name in names.split()
    }
    found = members(pack_changes(str(new), changes))
    order = "a/ a-b a.c a/b/ a/b/f a/hl biguid dir/ dir/.wh.new dir/z .wh.emptydir emptydir2/ .wh.xa"
    assert b" ".join(found).decode() == order
    assert found[b"a/hl"][0].linkname == b"a/b/f"
    assert found[b"a-b"][0].xattrs == {b"user.q": b"1"}
    assert found[b"a.c"][0].xattrs == {b"security.ima": b"1"}
    assert found[b"biguid"][0].uid == 3_000_000
