"""Where layers lie, what names them, and what others may have left there."""

import os
from functools import partial
from pathlib import Path

import pytest

import peers
from orlop.drivers.overlay import links
from orlop.drivers.overlay.layout import Layout
from orlop.errors import BadRecords, DuplicateID, LimitExceeded, NotSupported


@pytest.fixture
def home(tmp_path: Path) -> Path:
    peers.need_root()
    (tmp_path / "home" / "l").mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture
def layout(home: Path) -> Layout:
    return Layout(str(home), f"{home}-run", None, [])


def _chain(layout: Layout, *ids: str) -> str:
    directory = None
    for id in ids:
        directory = layout.make(id, directory, writable=False, owner=None)
    assert directory is not None
    return directory


def _ids(layout: Layout, directory: str) -> list[str]:
    return [lower.id for lower in layout.lowers(directory)]


def test_what_is_below_a_layer(layout: Layout) -> None:
    assert _ids(layout, _chain(layout, "a", "b", "c")) == ["b", "a"]
    assert layout.first_lower(layout.directory("c")) == layout.directory("b")
    assert layout.first_lower(layout.directory("a")) is None
    assert sorted(layout.ids()) == ["a", "b", "c"]


def test_lost_short_names_are_made_again(home: Path, layout: Layout) -> None:
    directory = _chain(layout, "a", "b", "c")
    before = {path.name: path.readlink() for path in (home / "l").iterdir()}
    for path in (home / "l").iterdir():
        path.unlink()
    (home / "stray").mkdir()
    assert _ids(layout, directory) == ["b", "a"]
    assert {path.name: path.readlink() for path in (home / "l").iterdir()} == before


def test_lost_short_names_of_an_image_store_are_made_again(tmp_path: Path, home: Path) -> None:
    (tmp_path / "images" / "overlay").mkdir(parents=True)
    layout = Layout(str(home), "/run", str(tmp_path / "images"), [])
    directory = _chain(layout, "a", "b")
    for path in (tmp_path / "images" / "overlay" / "l").iterdir():
        path.unlink()
    assert _ids(layout, directory) == ["a"]


def test_lost_link_files_are_made_again(home: Path, layout: Layout) -> None:
    _chain(layout, "a", "b")
    before = (home / "b" / "link").read_text()
    (home / "b" / "link").unlink()
    layout.make("c", str(home / "b"), writable=False, owner=None)
    assert (home / "b" / "link").read_text() == before
    assert (home / "b" / "link").stat().st_mode & 0o777 == 0o644
    assert _ids(layout, str(home / "c")) == ["b", "a"]


def test_what_leads_nowhere_is_removed_and_told(
    home: Path, layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    directory = _chain(layout, "a", "b")
    link = (home / "a" / "link").read_text()
    (home / "l" / link).unlink()
    (home / "l" / "A").symlink_to("/etc")
    (home / "l" / "B").touch()
    assert _ids(layout, directory) == ["a"]
    assert sorted(os.listdir(home / "l")) == sorted(["B", link, (home / "b" / "link").read_text()])
    assert "led to '/etc', and was removed" in caplog.text
    assert f"{link} was missing, and was made again" in caplog.text
    assert f"{home}/l/B: Invalid argument" in caplog.text


def test_a_home_that_lost_all_its_short_names_gets_them_back(home: Path, layout: Layout) -> None:
    directory = _chain(layout, "a", "b")
    for path in (home / "l").iterdir():
        path.unlink()
    (home / "l").rmdir()
    layout.make("c", directory, writable=False, owner=None)
    assert _ids(layout, str(home / "c")) == ["b", "a"]


def test_a_layer_that_lost_both_is_told(home: Path, layout: Layout) -> None:
    _chain(layout, "a")
    (home / "l" / (home / "a" / "link").read_text()).unlink()
    (home / "a" / "link").unlink()
    with pytest.raises(FileNotFoundError, match="short name"):
        layout.make("b", str(home / "a"), writable=False, owner=None)
    assert layout.ids() == ["a"]


@pytest.mark.parametrize(
    "content", ["l/../../etc", "/etc", "../x/diff", "l/", "l/..", "x", "l/A:etc", "l/A:", "l/a\0b", "work/A"]
)
def test_a_lower_file_names_layers_and_nothing_else(home: Path, layout: Layout, content: str) -> None:
    """It may be an additional store's: `..` would mount any directory of the host into a container."""
    _chain(layout, "a", "b")
    (home / "b" / "lower").write_text(content)
    with pytest.raises((BadRecords, FileNotFoundError)):
        layout.lowers(str(home / "b"))


@pytest.mark.parametrize(
    "target", ["/etc", "../../etc", "../a", "../a/diff/..", "../../x/diff", "../a/merged"]
)
def test_a_short_name_leads_to_a_layer_and_nowhere_else(home: Path, layout: Layout, target: str) -> None:
    directory = _chain(layout, "a", "b")
    path = home / "l" / (home / "a" / "link").read_text()
    path.unlink()
    path.symlink_to(target)
    with pytest.raises(BadRecords, match="leads to"):
        layout.lowers(directory)


def test_removal_takes_no_other_layers_short_name(home: Path, layout: Layout) -> None:
    """A copied `link` file: whoever removed that layer would take the name off the first."""
    _chain(layout, "a", "b")
    own = str(home / "l" / (home / "b" / "link").read_text())
    assert links.path_of(str(home / "a")) == str(home / "l" / (home / "a" / "link").read_text())
    (home / "b" / "link").write_text((home / "a" / "link").read_text())
    assert links.path_of(str(home / "b")) is None
    (home / "b" / "link").write_text("../../victim")
    # What says nothing is passed over for the name that leads there.
    assert links.path_of(str(home / "b")) == own


def test_a_layer_is_made_once(home: Path, layout: Layout) -> None:
    _chain(layout, "a")
    before = sorted(home.rglob("*"))
    with pytest.raises(DuplicateID):
        layout.make("a", None, writable=False, owner=None)
    assert sorted(home.rglob("*")) == before


def test_what_fails_half_way_leaves_nothing(home: Path, layout: Layout) -> None:
    before = sorted(home.rglob("*"))

    def fail(directory: str) -> None:
        assert os.listdir(directory) == []
        raise OSError(28, "no space")

    with pytest.raises(OSError, match="no space"):
        layout.make("a", None, writable=True, owner=None, prepare=fail)
    _chain(layout, "parent")
    before = sorted(home.rglob("*"))
    (home / "parent" / "lower").write_text("nonsense")
    with pytest.raises(BadRecords):
        layout.make("a", str(home / "parent"), writable=True, owner=None)
    (home / "parent" / "lower").unlink()
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize(
    ("mode", "child"), [(0o1777, 0o755), (0o2755, 0o755), (0o700, 0o700), (0o555, 0o555)]
)
def test_the_root_of_a_child_has_the_permissions_of_its_parents(
    home: Path, layout: Layout, mode: int, child: int
) -> None:
    _chain(layout, "a")
    os.chown(home / "a" / "diff", 5, 6)
    (home / "a" / "diff").chmod(mode)
    mask = os.umask(0o077)
    try:
        layout.make("b", str(home / "a"), writable=True, owner=None)
    finally:
        os.umask(mask)
    status = (home / "b" / "diff").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (child, 5, 6)


@pytest.mark.parametrize(
    ("attribute", "owner", "mode"),
    [
        (b"7:8:0751:dir", (7, 8), 0o751),
        (b"7:8:1751", (7, 8), 0o751),
        (b"7:8:0751:dir:more", (7, 8), 0o751),
        *[(wrong, (5, 6), 0o700) for wrong in (b"7:8", b"", b"-1:8:0751", b"7:4294967295:0751", b"7:8:0799")],
    ],
)
def test_under_a_mask_a_child_has_what_the_attribute_of_its_parent_says(
    home: Path, layout: Layout, attribute: bytes, owner: tuple[int, int], mode: int
) -> None:
    """What is none is passed over, and so is any attribute in a store without a mask: a container may set it."""
    parent = _chain(layout, "a")
    os.chown(home / "a" / "diff", 5, 6)
    (home / "a" / "diff").chmod(0o700)
    os.setxattr(home / "a" / "diff", "user.containers.override_stat", attribute)
    layout.make("b", parent, writable=False, owner=None, force_mask=0o711)
    status = (home / "b" / "diff").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (*owner, 0o711)
    told = os.getxattr(home / "b" / "diff", "user.containers.override_stat")
    assert told == b"%d:%d:%04o:dir" % (*owner, mode)
    layout.make("c", parent, writable=False, owner=None)
    status = (home / "c" / "diff").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (5, 6, 0o700)


def test_content_that_lies_elsewhere_is_refused(home: Path, layout: Layout) -> None:
    """Where it is an additional layer store's, what is in `diff` is not what the layer shows."""
    directory = _chain(layout, "a", "b")
    (home / "a" / "diff").rmdir()
    (home / "a" / "diff").symlink_to("/etc")
    for attempt in (partial(layout.lowers, directory), partial(layout.directory, "a")):
        with pytest.raises(NotSupported, match="additional layer store"):
            attempt()
    (home / "a" / "diff").unlink()
    with pytest.raises(FileNotFoundError, match="no content"):
        layout.below(directory)


def test_layers_that_are_images_are_told(home: Path, layout: Layout) -> None:
    directory = _chain(layout, "a", "b", "c")
    (home / "b" / "composefs-data").mkdir()
    assert [(each.id, each.is_blob) for each in layout.below(directory)] == [("b", True), ("a", False)]


def test_a_depth_that_cannot_be_mounted(home: Path, layout: Layout) -> None:
    directory = _chain(layout, "a", "b")
    (home / "b" / "lower").write_text(":".join(["l/x"] * 501))
    with pytest.raises(LimitExceeded) as failure:
        layout.lowers(directory)
    assert failure.value.peer == "max depth exceeded"


def test_older_content_comes_right_behind_its_layer(home: Path, layout: Layout) -> None:
    _chain(layout, "a", "b")
    for name in ("diff1", "diff2", "diff4"):
        (home / "a" / name).mkdir()
    (home / "b" / "diff1").mkdir()
    link = (home / "a" / "link").read_text()
    below = layout.below(str(home / "b"))
    assert [each.place for each in below] == ["b/diff1", f"l/{link}", "a/diff1", "a/diff2"]
    assert [each.directory for each in below] == [
        f"{home}/{place}" for place in ("b/diff1", "a/diff", "a/diff1", "a/diff2")
    ]


def test_homes_in_order(tmp_path: Path, home: Path) -> None:
    """Home, image store, additional stores; what is new goes to the first two."""
    for name in ("images", "more"):
        (tmp_path / name / "overlay" / "l").mkdir(parents=True)
    foreign = Layout(str(tmp_path / "more" / "overlay"), "/run", None, [])
    foreign.make("base", None, writable=False, owner=None)
    layout = Layout(str(home), "/run", str(tmp_path / "images"), [str(tmp_path / "more")])
    base = layout.directory("base")
    assert base == str(tmp_path / "more" / "overlay" / "base")
    image = layout.make("image", base, writable=False, owner=None)
    assert image == str(tmp_path / "images" / "overlay" / "image")
    box = layout.make("box", image, writable=True, owner=None)
    assert box == str(home / "box")
    assert [lower.layer for lower in layout.lowers(box)] == [image, base]
    assert layout.ids() == ["box"]
