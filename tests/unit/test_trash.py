"""Removal in two steps: set aside by rename, deleted later; and what a dead process left of that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orlop.records.trash import Trash, abandoned, recover
from orlop.system import files, mounts
from orlop.system.ownlock import own


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "home" / "tmp"


@pytest.fixture
def things(tmp_path: Path) -> Path:
    directory = tmp_path / "things"
    (directory / "tree/deep").mkdir(parents=True)
    (directory / "tree/deep/file").write_text("x")
    (directory / "file").write_text("x")
    (directory / "link").symlink_to("/etc")
    (directory / "dangling").symlink_to("nowhere")
    return directory


def entries(root: Path) -> list[str]:
    return sorted(entry.name.split("-")[0] for entry in root.iterdir())


def test_what_is_set_aside_is_out_of_the_way_and_deleted_later(root: Path, things: Path) -> None:
    trash = Trash(str(root))
    for name in ("tree", "file", "link", "dangling"):
        assert trash.set_aside(str(things / name))
    assert list(things.iterdir()) == []
    (kept,) = root.glob("temp-dir-*")
    assert sorted(os.listdir(kept)) == ["0-tree", "1-file", "2-link", "3-dangling"]
    assert (root / kept.name.replace("temp-dir-", "lock-")).exists()
    assert kept.name.removeprefix("temp-dir-").isdecimal()
    assert [oct(path.stat().st_mode & 0o777) for path in (root, kept)] == ["0o700"] * 2
    trash.empty()
    assert list(root.iterdir()) == []
    trash.empty()
    assert Path("/etc/passwd").exists()


def test_nothing_is_made_for_what_does_not_exist(root: Path, things: Path) -> None:
    trash = Trash(str(root))
    assert not trash.set_aside(str(things / "absent"))
    trash.empty()
    assert not root.exists()


def test_a_name_of_full_length_can_be_set_aside(root: Path, tmp_path: Path) -> None:
    trash = Trash(str(root))
    for name in ("x" * 255, "é" * 127):
        (tmp_path / name).touch()
        assert trash.set_aside(str(tmp_path / name))
    trash.empty()


def test_one_bin_takes_all_things_of_one_name(root: Path, tmp_path: Path) -> None:
    trash = Trash(str(root))
    for number in range(3):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "same").touch()
        trash.set_aside(str(directory / "same"))
    assert len(list(root.glob("temp-dir-*/*-same"))) == 3
    trash.empty()


def test_what_lies_on_another_mount_goes_to_a_root_there(
    root: Path, things: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.rename

    def across(source: str, target: str) -> None:
        if str(root) in target:
            raise OSError(18, "Invalid cross-device link")
        real(source, target)

    monkeypatch.setattr(os, "rename", across)
    trash = Trash(str(root))
    with pytest.raises(OSError, match="cross-device"):
        trash.set_aside(str(things / "tree"))
    own_root = things.parent / "driver/tempdirs"
    assert trash.set_aside(str(things / "tree"), str(own_root))
    assert trash.foreign_roots() == [str(own_root)]
    trash.empty()
    assert list(own_root.iterdir()) == list(root.iterdir()) == []


def test_a_root_on_a_mount_is_used_at_once_for_what_lies_there(
    root: Path, things: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = things.parent
    monkeypatch.setattr(mounts, "is_mount_point", lambda path: path == str(home))
    trash = Trash(str(root))
    assert trash.set_aside(str(things / "tree"), str(home / "tempdirs"))
    assert trash.set_aside(str(things / "file"), str(home / "tempdirs"))
    assert trash.foreign_roots() == [str(home / "tempdirs")]
    assert not root.exists()
    trash.empty()


@pytest.mark.parametrize("where", ["root", "own"])
def test_on_a_full_disk_things_are_deleted_at_once(
    root: Path, things: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P5: there is no room for the directory to move them to, and room is what the caller wants to make."""
    real, own_root = os.mkdir, root.parent / "own"

    def full(path: str, mode: int = 0o777) -> None:
        if where == "root" or str(own_root) in path:
            raise OSError(28, "No space left on device")
        real(path, mode)

    def across(source: str, target: str) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "rename", across)
    trash = Trash(str(root))
    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", full)
        assert trash.set_aside(str(things / "tree"), str(own_root))
        assert not trash.set_aside(str(things / "tree"), str(own_root))
    assert not (things / "tree").exists()
    trash.empty()


def test_an_error_of_the_rename_goes_on_and_the_thing_stays(
    root: Path, things: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(source: str, target: str) -> None:
        raise OSError(16, "Device or resource busy")

    trash = Trash(str(root))
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", busy)
        with pytest.raises(OSError, match="busy"):
            trash.set_aside(str(things / "tree"), str(root.parent / "own"))
    assert (things / "tree").exists()
    trash.empty()
    assert list(root.iterdir()) == []


def test_all_bins_are_tried_and_the_first_error_comes_out(
    root: Path, things: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trash = Trash(str(root))
    trash.set_aside(str(things / "tree"))
    other = str(root.parent / "other")
    trash._bin(other).take(str(things / "file"))
    tried: list[str] = []

    def failing(path: str, *, workers: int = 1) -> None:
        tried.append(path)
        raise OSError(1, f"no, not {len(tried)}")

    with monkeypatch.context() as patch:
        patch.setattr(files, "remove_tree", failing)
        with pytest.raises(OSError, match="no, not 1") as failure:
            trash.empty()
    assert len(tried) == 2
    assert "no, not 2" in failure.value.__notes__[0]
    assert len(list(root.glob("temp-dir-*"))) == 1
    # Nobody owns what is left, so whoever looks next deletes it, even this very process.
    assert recover(str(root)) == recover(other) == []
    assert list(root.iterdir()) == []


def test_recovery_deletes_what_nobody_owns(root: Path) -> None:
    """A pair, a lock alone, a directory alone; other names are left."""
    for name in ("temp-dir-1/0-tree/deep", "temp-dir-3", "other", "temp-dir"):
        (root / name).mkdir(parents=True)
    for name in ("lock-1", "lock-2", "lock", "temp-dir-1/1-file"):
        (root / name).touch()
    (root / "temp-dir-1/2-link").symlink_to("/etc")
    assert recover(str(root)) == []
    assert sorted(os.listdir(root)) == ["lock", "other", "temp-dir"]
    assert Path("/etc/passwd").exists()


def test_recovery_of_what_is_not_there_is_nothing(tmp_path: Path) -> None:
    assert recover(str(tmp_path / "absent")) == []


def test_recovery_passes_over_what_is_in_use(root: Path, things: Path) -> None:
    """By this process, which locks of the POSIX kind would not tell, and by others."""
    trash = Trash(str(root))
    trash.set_aside(str(things / "tree"))
    assert recover(str(root)) == []
    program = f"from orlop.records.trash import recover; print(recover({str(root)!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert entries(root) == ["lock", "temp"]
    trash.empty()
    assert entries(root) == []


def test_what_a_killed_process_set_aside_is_recovered(root: Path, things: Path) -> None:
    program = (
        "import os, signal; from orlop.records.trash import Trash\n"
        f"Trash({str(root)!r}).set_aside({str(things / 'tree')!r}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert entries(root) == ["lock", "temp"]
    assert recover(str(root)) == []
    assert entries(root) == []


def test_a_forked_child_does_not_keep_the_lock(root: Path, things: Path) -> None:
    trash = Trash(str(root))
    trash.set_aside(str(things / "tree"))
    born, told = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:  # waits until it is told, like a worker of another layer
        os.write(born[1], b"x")
        os.close(told[1])
        os.read(told[0], 1)
        os._exit(0)
    try:
        os.read(born[0], 1)
        name = next(root.glob("lock-*"))
        for bin in trash._bins.values():
            assert bin._lock is not None
            bin._lock.close()
        lock = own(str(name))
        assert lock is not None
        lock.close()
    finally:
        os.close(told[1])
        os.waitpid(pid, 0)
        for fd in (*born, told[0]):
            os.close(fd)


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_what_cannot_be_recovered_is_told_and_the_rest_goes(root: Path, kind: str) -> None:
    """N4: recovery errors never block a store."""
    root.mkdir(parents=True)
    if kind == "directory":
        (root / "lock-1").mkdir()
    else:
        (root / "lock-1").symlink_to("/etc/passwd")
    (root / "temp-dir-2").mkdir()
    (problem,) = recover(str(root))
    assert "lock-1" in str(problem)
    assert os.listdir(root) == ["lock-1"]


def test_a_root_that_cannot_be_listed_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (problem,) = recover(str(tmp_path / "file"))
    assert "file" in str(problem)


def test_an_owned_lock_is_one_owner_s(tmp_path: Path) -> None:
    path = str(tmp_path / "lock-1")
    lock = own(path, exclusive_create=True)
    assert lock is not None
    assert own(path) is None
    assert own(path, exclusive_create=True) is None
    lock.close()
    lock.close()
    again = own(path)
    assert again is not None
    os.unlink(path)
    new = own(path)
    assert new is not None
    again.close()
    new.close()


def test_a_lock_whose_file_was_removed_before_we_had_it_is_nobody_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking, its owner may have finished and unlinked it: others would not see ours."""
    path = str(tmp_path / "lock-1")
    real = os.open

    def racing(name: str, flags: int, mode: int = 0o777) -> int:
        fd = real(name, flags, mode)
        os.unlink(name)
        return fd

    monkeypatch.setattr(os, "open", racing)
    before = len(os.listdir("/proc/self/fd"))
    assert own(path) is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_abandoned_can_be_told_without_deleting_it(root: Path, things: Path) -> None:
    assert abandoned(str(root)) == []
    (root / "temp-dir-1/0-layer").mkdir(parents=True)
    (root / "lock-2").touch()
    (root / "other").touch()
    (root / "lock-4").symlink_to(things / "file")
    trash = Trash(str(root))
    trash.set_aside(str(things / "tree"))
    before = entries(root)
    assert abandoned(str(root)) == [str(root / "temp-dir-1"), str(root / "lock-2")]
    assert entries(root) == before  # not even a lock file was made
