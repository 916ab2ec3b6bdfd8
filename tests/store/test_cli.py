"""`orlop`, the command for people: what it prints where, what it asks, how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import orlop
import peers
from interface import Disk
from orlop.cli import render
from orlop.cli.main import COMMANDS, run
from orlop.model.plan import Kept, Plan, Step
from orlop.system.locks import LockFile
from tarballs import tar

_RUN = ("-c", "from orlop.cli.main import run; raise SystemExit(run())")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(place: Path, disk: Disk, capsys: pytest.CaptureFixture[str], store: orlop.Store) -> Run:
    """Runs `orlop` on the store of the test: status, standard output, standard error."""

    def call(*words: str) -> tuple[int, str, str]:
        roots = ["--root", str(place / "graph"), "--runroot", str(place / "run"), "--driver", disk.driver]
        capsys.readouterr()
        status = run([*roots, *words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_df_adds_up_and_names_what_nobody_explains(command: Run, store: orlop.Store, disk: Disk) -> None:
    layer = store.layers.put(tar(("big", os.urandom(200_000))))
    store.images.create(layer=layer.id, names=["example.org/big:1"])
    lost = disk.path("layers", "a" * 64)
    lost.mkdir()
    (lost / "item").write_bytes(b"x" * 50_000)
    status, out, err = command("df", "--json")
    assert (status, err) == (0, "")
    report = json.loads(out)
    sums = ("held_bytes", "idle_bytes", "record_bytes", "foreign_bytes", "unaccounted_bytes")
    assert report["total_bytes"] == sum(report[name] for name in sums)
    assert report["images"][0]["occupied_bytes"] >= 200_000
    assert [path["path"] for path in report["unaccounted"]] == [str(lost)]
    status, out, err = command("df", "--layers")
    assert status == 0
    assert "example.org/big:1" in out
    assert layer.id[:12] in out
    assert str(lost) in out
    assert "\x1b" not in out
    lost_item = lost / "item"
    lost_item.unlink()
    lost.rmdir()


def test_gc_shows_its_plan_and_does_nothing_unless_it_is_agreed_to(
    command: Run, store: orlop.Store, disk: Disk
) -> None:
    store.layers.put(tar("kept"))
    lost = disk.path("layers", f"{'e' * 64}.tar-split.gz")
    lost.write_bytes(b"x")
    status, out, _ = command("gc", "--dry-run")
    assert (status, str(lost) in out) == (0, True)
    status, out, err = command("gc")
    assert (status, out) == (2, "")
    assert "give --yes" in err
    assert lost.exists()
    status, out, _ = command("gc", "--dry-run", "--json")
    assert [step["path"] for step in json.loads(out)["steps"]] == [str(lost)]
    assert lost.exists()
    status, out, err = command("gc", "--yes", "--json")
    assert (status, len(json.loads(out)["done"])) == (0, 1)
    assert str(lost) in err  # the plan, before it is done
    assert not lost.exists()
    assert command("gc", "-y") == (0, "nothing to do\n", "")
    assert len(store.layers) == 1


def test_rm_takes_everything_named_at_once_and_what_nothing_else_needs(
    command: Run, store: orlop.Store
) -> None:
    base = store.layers.put(tar("base"))
    top = store.layers.put(tar("top"), parent=base.id)
    image = store.images.create(layer=top.id, names=["img"])
    store.containers.create(image=image.id, names=["box"])
    status, out, err = command("rm", "-y", "img")
    assert (status, out) == (1, "")
    assert "used by container" in err
    assert len(store.images) == 1
    status, out, err = command("rm", "-y", "img", "box")
    assert (status, len(store.layers), len(store.images), len(store.containers)) == (0, 0, 0, 0)
    assert command("rm", "-n", "nobody")[0] == 1


def test_a_store_that_somebody_else_holds_has_a_status_of_its_own(
    command: Run, store: orlop.Store, place: Path, disk: Disk
) -> None:
    lock = LockFile.at(str(disk.path("layers", "layers.lock")))
    list(store.layers)
    with lock.writing():
        words = [sys.executable, "-c", "import orlop.cli.main as m; raise SystemExit(m.run())"]
        roots = ["--root", str(place / "graph"), "--runroot", str(place / "run"), "-d", disk.driver]
        ended = subprocess.run(
            [*words, *roots, "--lock-timeout", "0.2", "gc", "-n"], capture_output=True, text=True, check=False
        )
    assert ended.returncode == 4, ended
    assert ended.stdout == ""
    assert "layers.lock" in ended.stderr


def test_damage_has_a_status_of_its_own(command: Run, store: orlop.Store, disk: Disk) -> None:
    store.layers.put(tar("x"))
    path = disk.path("layers", "layers.json")
    kept = path.read_bytes()
    path.write_bytes(b"")
    status, out, err = command("gc", "--yes")
    assert (status, out) == (3, "")
    assert "damage" in err
    path.write_bytes(kept)


def test_wrong_usage_has_a_status_of_its_own(command: Run) -> None:
    for words in (["nonsense"], ["gc", "--nonsense"], ["rm"], ["df", "extra"]):
        status, out, err = command(*words)
        assert (status, out) == (2, ""), words
        assert "Usage: orlop" in err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_typing_error_makes_no_store(place: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [command, "x"] if command == "rm" else [command]
    (place / "other").mkdir()
    (place / "other/file").write_text("")
    for root in (place / "nowhere", place / "other"):
        assert run(["--root", str(root), "--runroot", str(place / "run"), "-d", "vfs", *words]) == 1
        assert capsys.readouterr() == ("", f"orlop: {root}: there is no store here\n")
    assert sorted(os.listdir(place)) == ["other"]
    assert os.listdir(place / "other") == ["file"]


def _roots(place: Path) -> list[str]:
    return ["--root", str(place / "graph"), "--runroot", str(place / "run")]


@pytest.mark.parametrize(
    ("said_by", "wrong"),
    [
        *(("command line", name) for name in ("other", "btrfs", "zfs", "aufs", "overlay2")),
        *(("environment", name) for name in ("other", "btrfs", "zfs", "aufs")),
    ],
)
def test_a_mistyped_driver_makes_no_second_store(
    store: orlop.Store,
    place: Path,
    disk: Disk,
    wrong: str,
    said_by: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside a second one every program asks which of them is meant, and opens neither without an answer."""
    wrong = wrong if wrong != "other" else {"vfs": "overlay", "overlay": "vfs"}[disk.driver]
    list(store.layers)
    before = set(os.listdir(place / "graph")) | {"userns.lock"}
    if said_by == "environment":
        conf = place / "storage.conf"
        conf.write_text(f'[storage]\ngraphroot = "{place}/graph"\nrunroot = "{place}/run"\n')
        monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(conf))
        monkeypatch.setenv("STORAGE_DRIVER", wrong)
        status = run(["df"])
        wrong = "overlay" if wrong == "overlay2" else wrong  # the file's spelling of it
    else:
        status = run([*_roots(place), "-d", wrong, "df"])
    out, err = capsys.readouterr()
    assert (status, out) == (1, "")
    assert f'"{wrong}"' in err
    assert set(os.listdir(place / "graph")) <= before


def test_without_a_driver_the_store_that_is_there_is_looked_at(
    store: orlop.Store, place: Path, disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    """Opening a root with nothing but an empty vfs store makes one of overlay, as the peers do; looking does not."""
    assert list(store.layers) == []
    assert run([*_roots(place), "df", "--json"]) == 0
    assert capsys.readouterr().err == ""
    other = {"vfs": "overlay", "overlay": "vfs"}[disk.driver]
    assert not [name for name in os.listdir(place / "graph") if name.split("-")[0] == other]


def test_a_root_that_is_a_file_is_a_failure_said_without_numbers(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "file").write_text("")
    assert run(["--root", str(place / "file"), "--runroot", str(place / "run"), "df"]) == 1
    assert capsys.readouterr() == ("", f"orlop: {place}/file: Not a directory\n")


def test_a_store_that_cannot_be_written_is_looked_at_in_two_ways(
    store: orlop.Store, place: Path, disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    """The two that docs/command.md tells. A snapshot is given to people so that it stays as it is."""
    store.layers.put(tar("x"))
    store.close()  # one process takes a lock in one way: who writes, or who may not
    frozen, view = place / "frozen", place / "view"
    for name in ("frozen", "view", "upper", "work"):
        (place / name).mkdir()
    subprocess.run(["mount", "--bind", place / "graph", frozen], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", frozen], check=True)
    words = ["--runroot", f"{place}/run2", "-d", disk.driver]
    option = f"{disk.driver}.imagestore={frozen}"
    assert run(["--root", str(frozen), *words, "check"]) == 1
    out, err = capsys.readouterr()
    assert (out, "Read-only file system" in err, f"--option {option}" in err) == ("", True, True)

    orlop.open_store(place / "empty", place / "run2", disk.driver).close()
    assert run(["--root", f"{place}/empty", *words, "--option", option, "check"]) == 0
    assert "1 layer" in capsys.readouterr().out

    where = f"lowerdir={frozen},upperdir={place}/upper,workdir={place}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", where, view], check=True)
    for command in (["check"], ["df"], ["gc", "--dry-run"]):
        assert run(["--root", str(view), *words, *command]) == 0, capsys.readouterr().err
    peers.unmount_below(frozen)
    peers.unmount_below(view)


def test_every_command_has_a_sentence_and_examples(command: Run) -> None:
    _, overview, _ = command("--help")
    for name, (_, sentence) in COMMANDS.items():
        assert sentence in overview
        status, out, _ = command(name, "--help")
        assert status == 0
        assert f"Examples:\n    orlop {name}" in out
        assert "--json" in out


def test_text_of_others_cannot_move_the_cursor(command: Run, store: orlop.Store) -> None:
    """A name is any text: one with an escape must not hide the line above it."""
    store.images.create(names=["evil\x1b[2K\rname\u202e"])
    _, out, _ = command("df")
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "evil\\x1b[2K\\rname\\u202e" in out


def test_a_name_that_is_not_utf_8_is_listed(command: Run, store: orlop.Store, disk: Disk) -> None:
    """Files are named by bytes: one of another program must not end the listing."""
    store.layers.put(tar("x"))
    path = os.fsencode(disk.path("layers")) + b"/\xff\x1b"
    os.mkdir(path)
    status, out, err = command("df")
    assert (status, err) == (0, "")
    assert "\\udcff\\x1b" in out
    status, out, err = command("df", "--json")
    assert (status, err) == (0, "")
    assert "\\udcff" in out
    out.encode()
    assert [os.fsencode(one["path"]) for one in json.loads(out)["unaccounted"]] == [path]
    os.rmdir(path)


def _ended(
    words: list[str], *, closed: tuple[int, ...] = (), stdout: int = subprocess.PIPE
) -> tuple[int, str, str]:
    """How the program ends that was started with these streams closed: status, standard output, standard error."""
    argv = [sys.executable, *_RUN, *words]
    code = f"import os\nfor fd in {closed}: os.close(fd)\nos.execv({argv[0]!r}, {argv})"
    ended = subprocess.run(
        [sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
    )
    return ended.returncode, ended.stdout or "", ended.stderr


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams_do_no_harm(
    store: orlop.Store, place: Path, disk: Disk, closed: tuple[int, ...]
) -> None:
    """The first file that is opened takes the number: talk would be written into a lock file."""
    store.layers.put(tar("x"))
    before = {path: path.read_bytes() for path in disk.path("layers").glob("layers.*")}
    status, out, err = _ended([*_roots(place), "-d", disk.driver, "df"], closed=closed)
    assert (status, bool(out)) == ((1, False) if 1 in closed else (0, True))
    lost = "orlop: the answer cannot be written to standard output: Bad file descriptor\n"
    assert err == (lost if closed == (1,) else "")
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("words", [["df"], ["--version"], ["gc", "--dry-run", "--json"]])
def test_an_answer_that_nobody_gets_does_not_look_like_a_full_store(
    store: orlop.Store, place: Path, disk: Disk, words: list[str]
) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        status, _, err = _ended([*_roots(place), "-d", disk.driver, *words], stdout=full)
    finally:
        os.close(full)
    assert status == 1
    assert err == "orlop: the answer cannot be written to standard output: No space left on device\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--root", ""], "'--root': wanted a path, found an empty one"),
        (["--run", ""], "'--runroot' / '--run': wanted a path, found an empty one"),
        (["--lock-timeout", "-1"], "wanted seconds, a number from 0 on; found '-1'"),
        (["--lock-timeout", "nan"], "wanted seconds, a number from 0 on; found 'nan'"),
        (["--lock-timeout", "x"], "wanted seconds, a number from 0 on; found 'x'"),
    ],
)
def test_an_option_that_means_nothing_is_wrong_usage(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words, "df"]) == 2
    out, err = capsys.readouterr()
    assert (out, said in err) == ("", True), err


def test_options_have_the_names_that_podman_and_its_tools_give_them(
    store: orlop.Store, place: Path, disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    list(store.layers)
    for words in (
        ["--root", f"{place}/graph", "--runroot", f"{place}/run", "--storage-driver", disk.driver],
        ["--root", f"{place}/graph", "--run", f"{place}/run", "--driver", disk.driver],
    ):
        assert run([*words, "df"]) == 0, capsys.readouterr().err
    for words in (["--imagestore"], ["--image-store"]):
        assert run([*_roots(place), *words, f"{place}/nowhere", "df"]) == 1
        assert capsys.readouterr().err == f"orlop: {place}/nowhere: there is no store here\n"


def test_an_interrupt_while_it_starts_is_silent(tmp_path: Path) -> None:
    """A slow module stands for the time that importing takes: who presses the keys then sees no traceback."""
    slow = tmp_path / "click.py"
    slow.write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    script = Path(__file__).parents[2] / "scripts" / "orlop"
    source = Path(orlop.__file__).parents[1]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, script, "df"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{source}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    signal.signal(signal.SIGINT, before)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, err) == (-signal.SIGINT, b"")


def test_who_interrupts_is_not_told_that_nothing_was_done(
    store: orlop.Store, place: Path, disk: Disk
) -> None:
    """Something may have been: a plan that is carried out is no transaction."""
    lock = LockFile.at(str(disk.path("layers", "layers.lock")))
    list(store.layers)
    words = ["--root", str(place / "graph"), "--runroot", str(place / "run"), "-d", disk.driver, "df"]
    with lock.writing():
        # In the background of a shell script interrupts are ignored, and what is started there inherits that.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen([sys.executable, *_RUN, *words], stderr=subprocess.PIPE)
        signal.signal(signal.SIGINT, before)
        try:
            deadline = time.monotonic() + 20
            while Path(f"/proc/{process.pid}/wchan").read_text() != "fcntl_setlk":
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, err) == (-signal.SIGINT, b"\norlop: interrupted\n")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (5 * 2**40, "5.0 TiB"),
        (2**60, "1048576.0 TiB"),
    ],
)
def test_sizes_are_for_people(number: int, text: str) -> None:
    assert render.size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (5, "just now"), (60, "1 minute"), (7300, "2 hours"), (90000, "1 day")]
)
def test_ages_are_for_people(seconds: float | None, text: str) -> None:
    assert render.age(seconds) == text


def test_a_plan_says_what_stays_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    """Ids are as short in a reason as beside it, and an age says what is so old."""
    steps = [
        Step("remove", "layer", "f" * 64, "/x/y", 2048, 7200, "nothing needs it"),
        Step("remove", "layer", "e" * 64, "/x/z", 0, 5, f"image {'d' * 64} needed it"),
    ]
    keeps = [Kept("layer", "short", "", f"it is below {'c' * 64}")]
    render.plan(Plan("gc", steps, keeps, 1024), err=False)
    assert capsys.readouterr().out.splitlines() == [
        "remove layer ffffffffffff (2.0 KiB, 2 hours old, nothing needs it)",
        "remove layer eeeeeeeeeeee (new, image dddddddddddd needed it)",
        "keep layer short: it is below cccccccccccc",
        "2 steps, 1.0 KiB freed",
    ]


def test_df_tells_that_a_table_is_lost(command: Run, store: orlop.Store, disk: Disk) -> None:
    """What no record explains is then no garbage, and `gc` would refuse."""
    store.layers.put(tar("etc/", ("etc/a", b"abc")))
    records = disk.path("layers", "layers.json")
    text = records.read_bytes()
    records.unlink()
    status, out, err = command("df")
    assert status == 3
    assert f'damage: "{records}" is missing or empty' in err
    assert "orlop check" in out
    assert "orlop gc" not in out
    status, out, _ = command("df", "--json")
    assert status == 3
    assert len(json.loads(out)["damage"]) == 1
    records.write_bytes(text)
    assert command("df")[0] == 0


def test_check_tells_damage_by_its_status(command: Run, store: orlop.Store, disk: Disk) -> None:
    layer = store.layers.put(tar("etc/", ("etc/a", b"abc")))
    image = store.images.create(layer=layer.id, data={"manifest": b"{}"})
    status, out, err = command("check", "--all")
    assert (status, err) == (0, "")
    assert out.startswith("1 layer, 1 image, 0 containers, 1 item looked at")
    assert out.endswith("all is well\n")
    item = disk.path("images", image.id, "manifest")
    item.write_bytes(b"[]")
    lost = disk.path("layers", f"{'e' * 64}.tar-split.gz")
    lost.write_bytes(b"")
    status, out, _ = command("check", "--quick")
    assert status == 3
    assert f"damage: image {image.id[:12]}: data item" in out
    assert "repair: " in out
    assert sum(line.count(str(lost)) for line in out.splitlines()) == 1, "the path is told once"
    assert out.splitlines()[-1].endswith("1 damaged, 1 left behind")
    status, out, _ = command("check", "--json")
    report = json.loads(out)
    assert (status, report["clean"]) == (3, False)
    assert {finding["grade"] for finding in report["findings"]} == {"damage", "leftover"}
    item.write_bytes(b"{}")
    assert command("check")[0] == 0  # what only lies about is no damage
    lost.unlink()


def test_dedup_says_where_it_cannot_be_done(command: Run, place: Path) -> None:
    """With reflinks it is tested on loop images of xfs and btrfs (test_dedup)."""
    if peers.filesystem(place) in ("xfs", "btrfs"):
        assert command("dedup", "-n") == (0, "nothing to do\n", "")
    else:
        status, out, err = command("dedup", "--yes")
        assert (status, out) == (1, "")
        assert "reflink" in err


def test_repair_puts_right_what_it_can_and_says_what_has_to_go(
    command: Run, store: orlop.Store, disk: Disk
) -> None:
    layer = store.layers.put(tar("etc/", ("etc/a", b"abc")))
    image = store.images.create(layer=layer.id, names=["img"])
    (file,) = [path for path in Path(store.graph_root).rglob("etc/a") if path.is_file()]
    file.chmod(0o777)
    assert command("check")[0] == 3
    status, out, _ = command("repair", "--dry-run")
    assert (status, out.startswith(f"rewrite layer {layer.id[:12]}")) == (0, True)
    assert file.stat().st_mode & 0o777 == 0o777
    assert command("repair")[0] == 2  # nobody agreed
    assert command("repair", "--yes")[0] == 0
    assert file.stat().st_mode & 0o777 == 0o644
    assert command("check")[0] == 0
    file.write_bytes(b"xyz")
    status, out, err = command("repair", "--yes", "--json")
    assert status == 0
    assert [step["id"] for step in json.loads(out)["done"]] == [image.id, layer.id]
    assert "/etc/a is damaged" in err
    assert command("check")[0] == 0
    assert "img" not in store.images
