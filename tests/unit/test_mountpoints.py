"""`mountpoints.json`: which layers are mounted, and how often."""

import json
from pathlib import Path
from typing import Any

import pytest

from orlop.errors import BadRecords
from orlop.formats.recordfiles import Contents
from orlop.model.layer import Layer
from orlop.records.mountpoints import Mount, Mountpoints
from orlop.records.rows import Rows
from orlop.system import files
from orlop.system.locks import LockFile

A, B, C = "a" * 64, "b" * 64, "c" * 64


def rows(*ids: str) -> Rows:
    return Rows([Contents(Layer, [{"id": id, "names": [f"name-{id[0]}"]} for id in ids], "")])


LAYERS = rows(A, B, C)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mountpoints.json"


def made(file: Path) -> Mountpoints:
    return Mountpoints(str(file), LockFile.at(str(file.with_suffix(".lock"))), None)


def state(mounts: Mountpoints, layers: Rows = LAYERS) -> dict[str, tuple[str, int]]:
    mounts.refresh(layers)
    return {id: (m.path, m.count) for id in (A, B, C) if (m := mounts.of(id)).path or m.count}


def entry(id: str, path: str = "/m", count: int = 1) -> dict[str, Any]:
    return {"id": id, "path": path, "count": count}


def write(file: Path, *entries: object) -> None:
    file.write_text(json.dumps(entries))


@pytest.mark.parametrize("content", [None, b"", b"null", b"[]"])
def test_a_missing_or_empty_file_means_that_nothing_is_mounted(file: Path, content: bytes | None) -> None:
    if content is not None:
        file.write_bytes(content)
    mounts = made(file)
    assert state(mounts) == {}
    assert not mounts
    assert (mounts.mounted(), mounts.by_path("/m"), mounts.damage) == ([], None, ())


def test_mounts_are_written_in_the_order_of_the_layers_with_all_three_members(file: Path) -> None:
    mounts = made(file)
    mounts.set(LAYERS, B, Mount('/m/<"b">', 2))
    mounts.set(LAYERS, A, Mount("/m/a", 1))
    assert file.read_text() == (
        f'[{{"id":"{A}","path":"/m/a","count":1}},{{"id":"{B}","path":"/m/\\u003c\\"b\\"\\u003e","count":2}}]'
    )
    assert state(made(file)) == {A: ("/m/a", 1), B: ('/m/<"b">', 2)}
    assert file.stat().st_mode & 0o777 == 0o600
    assert mounts.by_path("/m/a") == A
    assert mounts.mounted() == [A, B]


@pytest.mark.parametrize("mount", [Mount("", 0), Mount("", 3), Mount("/m", 0), Mount("/m", -1)])
def test_only_a_path_with_a_count_is_written(file: Path, mount: Mount) -> None:
    mounts = made(file)
    mounts.set(LAYERS, A, Mount("/a", 1))
    mounts.set(LAYERS, A, mount)
    assert file.read_bytes() == b"[]"
    assert mounts.mounted() == []


def test_layers_are_named_like_in_any_lookup_and_unknown_ones_are_ignored(file: Path) -> None:
    write(file, entry("name-a"), entry("bbb", "/n", 2), entry("unknown"), entry(C, ""), entry(""))
    mounts = made(file)
    assert state(mounts) == {A: ("/m", 1), B: ("/n", 2)}
    mounts.saving(LAYERS, lambda: None)
    assert [e["id"] for e in json.loads(file.read_bytes())] == [A, B]
    assert mounts.damage == ()


def test_mounts_of_layers_that_are_gone_vanish_with_the_next_save(file: Path) -> None:
    write(file, entry(A), entry(B))
    mounts = made(file)
    assert len(state(mounts)) == 2
    mounts.saving(rows(B), lambda: None)
    assert json.loads(file.read_bytes()) == [entry(B)]


def test_the_file_is_read_again_when_another_program_wrote_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = made(file), made(file)
    assert state(one) == state(two) == {}
    one.set(LAYERS, A, Mount("/a", 1))
    assert state(two) == {A: ("/a", 1)}
    two.set(LAYERS, B, Mount("/b", 1))
    one.set(LAYERS, C, Mount("/c", 1))  # without a look in between: what it knew is not what counts
    assert [e["id"] for e in json.loads(file.read_bytes())] == [A, B, C]
    monkeypatch.setattr(files, "read", None)
    assert len(state(one)) == 3


def test_the_token_is_written_before_the_file_and_every_save_writes_one(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = made(file)
    lock = file.with_suffix(".lock")
    seen: list[bytes] = []
    real = files.write_atomic

    def watching(path: str, data: bytes, **how: Any) -> int:
        assert how == {"durable": False}  # below the run root nothing is ever synced
        seen.append(lock.read_bytes())
        return real(path, data, **how)

    monkeypatch.setattr(files, "write_atomic", watching)
    for _ in range(3):
        mounts.saving(LAYERS, lambda: seen.append(b"records"))
        assert lock.read_bytes() == seen[-1]
    assert seen[::2] == [b"records"] * 3
    assert len({*seen[1::2]}) == 3


def test_a_save_of_records_that_fails_leaves_the_mounts(file: Path) -> None:
    mounts = made(file)
    mounts.set(LAYERS, A, Mount("/a", 1))
    before = file.read_bytes(), file.with_suffix(".lock").read_bytes()

    def failing() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        mounts.saving(LAYERS, failing)
    assert (file.read_bytes(), file.with_suffix(".lock").read_bytes()) == before
    assert mounts.lock.held is None


def test_a_write_that_fails_is_raised_and_forgotten(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = made(file)
    mounts.set(LAYERS, A, Mount("/a", 1))

    def full(path: str, data: bytes, **how: Any) -> int:
        raise OSError(28, "No space left on device", path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", full)
        with pytest.raises(OSError, match="No space"):
            mounts.set(LAYERS, B, Mount("/b", 1))
    assert state(mounts) == {A: ("/a", 1)}


ODD = [
    "null",
    "5",
    "[]",
    f'{{"id":"{C}","path":5,"count":1}}',
    f'{{"id":"{C}","path":"/m","count":"1"}}',
    f'{{"id":"{C}","path":"/m","count":true}}',
    f'{{"id":"{C}","path":"/m","count":1.5}}',
    '{"id":[],"path":"/m","count":1}',
]


@pytest.mark.parametrize("odd", ODD)
def test_an_entry_that_does_not_fit_is_named_and_written_back(file: Path, odd: str) -> None:
    file.write_text(f"[{json.dumps(entry(A))}, {odd} ,{json.dumps(entry(B))}]")
    mounts = made(file)
    assert state(mounts) == {A: ("/m", 1), B: ("/m", 1)}
    assert len(mounts.damage) == 1
    assert str(file) in mounts.damage[0]
    mounts.set(LAYERS, A, Mount("/m", 2))
    assert (
        file.read_text()
        == f'[{{"id":"{A}","path":"/m","count":2}},{{"id":"{B}","path":"/m","count":1}},{odd}]'
    )


def test_members_are_matched_in_any_case_and_null_is_zero(file: Path) -> None:
    file.write_text(f'[{{"ID":"{A}","Path":"/m","COUNT":null}},{{"id":"{B}","path":null,"count":1}},{{}}]')
    mounts = made(file)
    assert state(mounts) == {A: ("/m", 0)}
    assert mounts.mounted() == []
    assert mounts.damage == ()


@pytest.mark.parametrize("content", [b"{", b"{}", b"[1", b"  ", b"[[" * 9999, b"\xff"])
def test_a_broken_file_hides_the_mounts_and_is_never_written_over(file: Path, content: bytes) -> None:
    """Counts that cannot be read are not zero: nothing may be saved on top of them."""
    mounts = made(file)
    mounts.set(LAYERS, A, Mount("/a", 1))
    file.write_bytes(content)
    mounts.forget()
    assert state(mounts) == {}
    assert mounts.damage[0].startswith(f'loading "{file}": ')
    called: list[int] = []
    for attempt in (
        lambda: mounts.set(LAYERS, B, Mount("/b", 1)),
        lambda: mounts.saving(LAYERS, lambda: called.append(1)),
    ):
        with pytest.raises(BadRecords) as failure:
            attempt()
        assert failure.value.path == str(file)
        assert str(failure.value) == mounts.damage[0]
    assert file.read_bytes() == content
    assert called == []
    file.unlink()  # as a reboot does
    mounts.set(LAYERS, B, Mount("/b", 1))
    assert json.loads(file.read_bytes()) == [entry(B, "/b")]
    assert mounts.damage == ()


def test_a_link_in_the_place_of_the_file_is_not_followed(file: Path) -> None:
    target = file.with_name("elsewhere")
    write(target, entry(A))
    file.symlink_to(target)
    mounts = made(file)
    assert state(mounts) == {}
    assert "symbolic link" in mounts.damage[0]
    with pytest.raises(BadRecords):
        mounts.set(LAYERS, A, Mount("/m", 2))
    assert json.loads(target.read_bytes()) == [entry(A)]
