"""Extended attributes: which ones each job looks at, and that nothing is followed on the way to them."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import peers
from orlop.system import xattrs


@pytest.mark.parametrize(
    ("name", "archived", "copied", "compared"),
    [
        ("user.a", True, True, True),
        ("user.", True, True, True),
        ("user.overlay.opaque", False, True, True),
        ("user.overlay.", False, True, True),
        ("user.overlayed", True, True, True),
        ("security.capability", True, True, True),
        ("security.ima", True, False, False),
        ("security.selinux", False, False, False),
        ("trusted.overlay.opaque", False, True, False),
        ("trusted.overlay.redirect", False, False, False),
        ("trusted.a", False, False, False),
        ("system.posix_acl_access", False, False, False),
    ],
)
def test_each_job_has_its_names(name: str, archived: bool, copied: bool, compared: bool) -> None:
    """Of a stream (`spec/archive.md` 3.3), of a copy (`spec/drivers.md` 3.5), of a comparison (6.1)."""
    assert xattrs.archived(name) is archived
    assert xattrs.copied(name) is copied
    assert xattrs.compared(name) is compared


def everything(name: str) -> bool:
    return not name.startswith("security.selinux")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.touch()
    try:
        os.setxattr(path, "user.a", b"1\0")
    except OSError:
        peers.missing("a temporary directory whose file system has extended attributes")
    os.setxattr(path, "user.b", b"")
    os.symlink("file", tmp_path / "link")
    return path


def test_attributes_are_read_by_descriptor_handle_and_name(file: Path) -> None:
    wanted = {b"user.a": b"1\0", b"user.b": b""}
    directory = os.open(file.parent, os.O_RDONLY)
    fd, handle = os.open(file, os.O_RDONLY), os.open(file, os.O_PATH)
    try:
        assert xattrs.read(fd, everything) == wanted
        assert xattrs.read_handle(handle, everything) == wanted
        assert xattrs.read_beneath(directory, b"file", everything) == wanted
        assert xattrs.read(fd, lambda name: name == "user.b") == {b"user.b": b""}
        assert xattrs.read(directory, everything) == {}
    finally:
        for opened in (directory, fd, handle):
            os.close(opened)


def test_a_symlink_is_not_followed(file: Path) -> None:
    directory = os.open(file.parent, os.O_RDONLY)
    handle = os.open("link", os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
    try:
        assert xattrs.read_beneath(directory, b"link", everything) == {}
        assert xattrs.read_handle(handle, everything) == {}
        with pytest.raises(PermissionError):  # the kernel lets no symlink have user.*
            xattrs.write_beneath(directory, b"link", {b"user.c": b"3"})
        assert "user.c" not in os.listxattr(file)
        if os.geteuid() == 0:
            xattrs.write_beneath(directory, b"link", {b"trusted.c": b"3"})
            assert xattrs.read_beneath(directory, b"link", everything) == {b"trusted.c": b"3"}
            assert xattrs.read_handle(handle, everything) == {b"trusted.c": b"3"}
    finally:
        os.close(directory)
        os.close(handle)


def test_attributes_are_written_by_descriptor_and_by_name(file: Path) -> None:
    directory, fd = os.open(file.parent, os.O_RDONLY), os.open(file, os.O_RDONLY)
    try:
        xattrs.write(fd, {b"user.a": b"2", b"user.\xff": b"new"})
        xattrs.write_beneath(directory, b"file", {b"user.b": b"3"})
        assert xattrs.read(fd, everything) == {b"user.a": b"2", b"user.\xff": b"new", b"user.b": b"3"}
    finally:
        os.close(directory)
        os.close(fd)


def failing(code: int, name: str = "") -> Callable[..., object]:
    def fail(target: object, attribute: str = "", *rest: object, **more: object) -> object:
        if name in ("", attribute):
            raise OSError(code, os.strerror(code))
        return b"value"

    return fail


def test_a_file_system_without_attributes_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "listxattr", failing(errno.ENOTSUP))
    monkeypatch.setattr(os, "setxattr", failing(errno.ENOTSUP))
    assert xattrs.read(0, everything) == {}
    xattrs.write(0, {b"user.a": b"1"})


@pytest.mark.parametrize("code", [errno.E2BIG, errno.ENODATA, errno.ENOTSUP, errno.EOVERFLOW])
def test_a_value_that_is_too_large_gone_or_foreign_is_left_out(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "listxattr", lambda *_, **__: ["user.a", "user.bad", "user.c"])
    monkeypatch.setattr(os, "getxattr", failing(code, "user.bad"))
    assert xattrs.read(0, everything) == {b"user.a": b"value", b"user.c": b"value"}


def test_other_errors_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "listxattr", lambda *_, **__: ["user.a"])
    for call, function in (("getxattr", xattrs.read), ("listxattr", xattrs.read)):
        monkeypatch.setattr(os, call, failing(errno.EIO))
        with pytest.raises(OSError, match="Input/output error"):
            function(0, everything)
    monkeypatch.setattr(os, "setxattr", failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        xattrs.write(0, {b"user.a": b"1"})
