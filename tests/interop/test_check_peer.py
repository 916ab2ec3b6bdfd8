"""`orlop-storage check` on every case of `spec/check-repair.md`: found in the same words, mended to the same status,
and then used by Debian's podman and containers-storage.

Debian's containers-storage has no `check`, so what is said is held against the specification. What is mended there
where they delete is in docs/compatibility.md.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from check_cases import CASES, DRIVERS, IDS, MODIFIED, WITHOUT, Case, Report

import damaged
import invariants
import peers
import rawtar
import trees
from damaged import OTHER, Site
from damages import flipped, gone
from tarballs import tar

# --- the store ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole() -> Iterator[Callable[[str], Site]]:
    """A store of each driver, to be copied. It lies in /tmp: podman wants a run root of at most 50 characters."""
    peers.need_root()
    place = Path(tempfile.mkdtemp(prefix="o-", dir="/tmp"))
    built: dict[str, Site] = {}

    def of(driver: str) -> Site:
        if driver not in built:
            site = damaged.build(place / driver, driver)
            with site.open() as store:
                store.images.delete(OTHER)  # it has no manifest, which podman does not like
                store.layers.data(site.base)["note"] = b"of a layer"
            peers.unmount_below(place)
            built[driver] = site
        return built[driver]

    yield of
    peers.unmount_below(place)
    shutil.rmtree(place)


@pytest.fixture
def make(short: Path, whole: Callable[[str], Site]) -> Callable[[str], Site]:
    """Makes a copy; without its container it is not `boxed`."""

    def make(driver: str, *, boxed: bool = True) -> Site:
        site = damaged.copy(whole(driver), short / "s")
        if not boxed:
            with site.open() as store:
                store.containers.delete(site.box)
        peers.unmount_below(short)
        return site

    return make


def check(site: Site, *words: str, options: tuple[str, ...] = ()) -> peers.Result:
    program = peers.orlop_storage(site.place, driver=site.driver, options=options)
    return program("check", *words, ok=False)


def parsed(text: str) -> Report:
    """The plain report. Kinds must come in their order; ids of a kind may come in any."""
    found: Report = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(" "):
            lines.append(line[1:])
            continue
        heading, _, id = line.rpartition(" ")
        assert id.endswith(":")
        assert (heading, id[:-1]) not in found
        lines = found[heading, id[:-1]] = []
    kinds = ["layer", "read-only layer", "image", "read-only image", "container"]
    assert [kind for kind, _ in found] == sorted([kind for kind, _ in found], key=kinds.index)
    return found


def verdict(report: Report, *kinds: str) -> str:
    kinds = kinds or ("layer", "read-only layer", "image", "read-only image", "container")
    return ", ".join(f"{sum(kind == k for k, _ in report)} {kind} errors" for kind in kinds) + "\n"


def in_some_order(report: Report) -> Report:
    """The differences of a tree come in no particular order."""
    return {
        subject: sorted(lines) if any(MODIFIED in line for line in lines) else lines
        for subject, lines in report.items()
    }


def said(result: peers.Result) -> tuple[int, str, str]:
    return result.status, result.text, result.err.decode()


CLEAN = (0, "", "")


def _with_drivers(cases: Sequence[Case], turn: int) -> pytest.MarkDecorator:
    """Each case with one driver now, and with the other in `make deep-check`."""
    rows = [
        pytest.param(
            case,
            driver,
            id=f"{case.name}-{driver}",
            marks=() if (number + turn) % 2 == now else pytest.mark.deep,
        )
        for number, case in enumerate(cases)
        for now, driver in enumerate(DRIVERS)
    ]
    return pytest.mark.parametrize(("case", "driver"), rows)


# --- tests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_found_and_told_in_their_words(case: Case, driver: str, make: Callable[..., Site]) -> None:
    site = make(driver)
    assert said(check(site)) == CLEAN
    case.do(site)
    report = case.report(site, boxed=True)
    done = check(site)
    assert in_some_order(parsed(done.text)) == in_some_order(report)
    assert (done.status, done.err.decode()) == (1, verdict(report))
    quick = check(site, "-q")
    assert said(quick) == (CLEAN if case.slow else said(done))
    counted = check(site, "--json")
    assert (counted.status, counted.err) == (done.status, done.err)
    assert counted.text == json.dumps(json.loads(counted.text), separators=(",", ":")) + "\n"
    headings = {
        "Layers": "layer",
        "ROLayers": "read-only layer",
        "Images": "image",
        "ROImages": "read-only image",
        "Containers": "container",
    }
    assert list(json.loads(counted.text)) == list(headings)
    for member, heading in headings.items():
        wanted = {id: [{}] * len(lines) for (kind, id), lines in report.items() if kind == heading}
        assert json.loads(counted.text)[member] == wanted


@_with_drivers(CASES, turn=0)
def test_mended_while_there_is_a_container(case: Case, driver: str, make: Callable[..., Site]) -> None:
    """Without --force: status 1, as a container is reported; what could be mended is. With it: all is well."""
    site = make(driver)
    case.do(site)
    report = case.report(site, boxed=True)
    done = check(site, "-r")
    assert in_some_order(parsed(done.text)) == in_some_order(report)
    if driver in case.refused:
        refused = [f"deleting image {site.image}: image used by {site.box}: image is in use by a container"]
        for kind, id in report:
            if kind == "layer":
                why = f"used by layer {site.child}: layer has children"
                if id == site.box_layer:
                    why = f"layer {id} used by container {site.box}: layer is in use by a container"
                refused += [f"deleting layer {id}: {why}"] * len(report[kind, id])
        assert (done.status, done.err.decode().splitlines()) == (1, [*refused, refused[0]])
    elif ("container", site.box) in report:
        counts = verdict(report, "read-only layer", "read-only image", "container")
        assert (done.status, done.err.decode()) == (1, counts)
    else:
        assert (done.status, done.err) == (0, b"")
    after = check(site)
    if case.stays or driver in case.refused:
        assert in_some_order(parsed(after.text)) == in_some_order(report)
        assert (after.status, after.err.decode()) == (1, verdict(report))
    else:
        assert said(after) == CLEAN
    forced = check(site, "-f")
    assert (forced.status, forced.text, forced.err.decode()) == (0, after.text, "")
    assert said(check(site)) == CLEAN
    _containers_storage_uses(site, case.survivors(driver, boxed=True))
    if case not in WITHOUT:
        _podman_uses(site)


@_with_drivers(WITHOUT, turn=1)
def test_mended_where_there_is_no_container(case: Case, driver: str, make: Callable[..., Site]) -> None:
    site = make(driver, boxed=False)
    case.do(site)
    report = case.report(site, boxed=False)
    done = check(site, "--repair")
    assert in_some_order(parsed(done.text)) == in_some_order(report)
    assert (done.status, done.err) == (0, b"")
    assert said(check(site)) == CLEAN
    _containers_storage_uses(site, case.survivors(driver, boxed=False))
    _podman_uses(site)


def _containers_storage_uses(site: Site, survivors: set[str]) -> None:
    """It lists what is left, reads it, and makes, mounts and deletes a container of it."""
    invariants.hold(site.graph, site.place / "run", site.driver)
    theirs = peers.containers_storage(site.place, driver=site.driver)
    layers, images, containers = [theirs.json(kind) or [] for kind in ("layers", "images", "containers")]
    found = {record["id"] for record in (*layers, *images, *containers)}
    assert found == {getattr(site, name) for name in survivors}
    for layer in layers:
        if layer.get("diff-digest"):
            assert damaged.digest(theirs("diff", "-u", layer["id"]).out) == layer["diff-digest"]
    for image in images:
        box = theirs.line("create-container", image["id"])
        _look_into(Path(theirs.line("mount", box)))
        theirs("unmount", box)
        theirs("delete-container", box)
    for box in containers:
        root = Path(theirs.line("mount", box["id"]))
        assert (root / "changed").read_text() == "by the container"
        theirs("unmount", box["id"])
    assert said(check(site)) == CLEAN


def _look_into(root: Path) -> None:
    assert (root / "etc/passwd").read_text() == "root:x:0:0\nme:x:1:1\n"
    assert (root / "srv/fresh").read_text() == "fresh"
    assert not (root / "srv/old").exists()
    assert (root / "bin/su").stat().st_mode & 0o7777 == 0o4755


def _podman_uses(site: Site) -> None:
    """It makes, mounts, changes and deletes a container, of a new image if the old one is gone."""

    def podman(*words: str) -> str:
        return peers.podman(site.place, *words, driver=site.driver).text.strip()

    image = "img:1"
    if image not in podman("images", "--format", "{{.Repository}}:{{.Tag}}"):
        image = "new:1"
        archive = site.place / "new.tar"
        archive.write_bytes(tar("a/", ("a/file", b"new")).getvalue())
        podman("import", "-q", str(archive), image)
    box = podman("create", image, "x")
    root = Path(podman("mount", box))
    if image == "img:1":
        _look_into(root)
    (root / "made").write_text("by podman")
    podman("rm", "-f", box)
    if site.box not in podman("ps", "-a", "--external", "--no-trunc", "-q"):
        podman("rmi", image)
    assert said(check(site))[:2] == (0, "")


# --- beside the cases -----------------------------------------------------------------------------------------


def _case(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


@pytest.mark.parametrize("driver", DRIVERS)
def test_errors_of_a_repair_are_counted_in_json(driver: str, make: Callable[..., Site]) -> None:
    site = make(driver)
    _case("a changed file that is nowhere else").do(site)
    done = check(site, "-rj")
    report, errors = done.lines
    assert json.loads(report)["Containers"] == {site.box: [{}] * 2}
    assert errors == "[{},{},{}]"  # the image, and the layer for each of its lines
    first = f"deleting image {site.image}: image used by {site.box}: image is in use by a container\n"
    assert (done.status, done.err.decode()) == (1, first)


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_additional_store_is_told_of_and_left_alone(driver: str, make: Callable[..., Site]) -> None:
    """What lies in it keeps the status at 1; the layer built on one of its layers is no damage."""
    site = make(driver, boxed=False)
    near = Site(site.place / "near", driver, options=(f"{driver}.imagestore={site.graph}",))
    with near.open() as store:
        store.layers.create(id=near.sibling, parent=site.child)
        store.containers.create(id=near.box, image=site.image, layer=near.box_layer)
    peers.unmount_below(site.place)
    assert said(check(near, options=near.options)) == CLEAN

    _case("an item of a layer is deleted").do(site)
    _case("an item of an image has grown").do(site)
    layer = f'read-only layer {site.base}: data item "note": layer data item is missing'
    image = f'read-only image {site.image}: data item "signature": image data item has incorrect size'
    report: Report = {
        ("read-only layer", site.base): [layer],
        ("read-only image", site.image): [image, layer],
        ("container", site.box): [image, layer],
    }
    done = check(near, options=near.options)
    assert parsed(done.text) == report
    assert (done.status, done.err.decode()) == (1, verdict(report))
    before = trees.listing(site.graph)
    for words, kinds in (
        (("-r",), ("read-only layer", "read-only image", "container")),
        (("-r", "-f"), ("read-only layer", "read-only image")),
    ):
        done = check(near, *words, options=near.options)
        assert parsed(done.text) == report
        assert (done.status, done.err.decode()) == (1, verdict(report, *kinds))
    assert trees.listing(site.graph) == before
    # The container is well: what it needs is damaged, but not its.
    assert near.box in peers.orlop_storage(near.place, driver=driver, options=near.options)("containers").text


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_chain_that_nothing_needs_goes_leaf_first(driver: str, make: Callable[..., Site]) -> None:
    site = make(driver, boxed=False)
    site.drop("image", site.image)
    gone(site.table("image") / site.image)
    line = "layer not referenced by any images or containers"
    report: Report = {("layer", id): [f"layer {id}: {line}"] for id in (site.base, site.child)}
    assert said(check(site)) == CLEAN  # they were made a moment ago
    done = check(site, "-m", "0")
    assert (done.status, parsed(done.text), done.err.decode()) == (1, report, verdict(report))
    done = check(site, "-r", "-m", "0s")
    assert (done.status, parsed(done.text), done.err) == (0, report, b"")
    assert said(check(site, "-m", "0")) == CLEAN
    assert peers.containers_storage(site.place, driver=driver)("layers").text == ""
    invariants.hold(site.graph, site.place / "run", driver)


@pytest.mark.parametrize("driver", DRIVERS)
def test_what_they_report_by_mistake_is_not_reported(driver: str, make: Callable[..., Site]) -> None:
    """A link whose header is not its target's, and entries without their directories."""
    site = make(driver)
    blob = b"".join(
        [
            rawtar.member(b"deep/down/file", b"content", mode=0o600, mtime=damaged.T),
            rawtar.member(
                b"link", type=b"1", linkname=b"deep/down/file", mode=0o4711, uid=5, mtime=damaged.T
            ),
            rawtar.END,
        ]
    )
    peers.containers_storage(site.place, driver=driver)("import-layer", site.child, data=blob)
    assert said(check(site)) == CLEAN


@pytest.mark.parametrize("driver", DRIVERS)
def test_records_that_cannot_be_read_end_a_check_with_an_error(
    driver: str, make: Callable[..., Site]
) -> None:
    """As with them. But what can be had of the records is: a second repair finds a store that can be checked."""
    site = make(driver)
    path = site.file("layer")
    path.write_bytes(path.read_bytes()[:-200])
    done = check(site)
    assert (done.status, done.out) == (1, b"")
    assert done.err.decode().startswith(f"{path} cannot be read as records: ")
    assert check(site, "-r").status == 1
    assert check(site, "-r").status in (0, 1)
    assert said(check(site)) == CLEAN
    _containers_storage_uses(site, {"base", "child", "box_layer", "image", "box"})


@pytest.mark.parametrize("driver", DRIVERS)
def test_damage_that_they_pass_over_is_told_in_our_words(driver: str, make: Callable[..., Site]) -> None:
    """An item with another content, and a container without its layer's record."""
    site = make(driver)
    flipped()(site.item("manifest"))
    site.drop("layer", site.box_layer)
    done = check(site, "-q")
    report = parsed(done.text)
    (line,) = report["image", site.image]
    assert line.startswith(f'image {site.image}: data item "manifest" is sha256:')
    assert report["container", site.box] == [
        f"container {site.box}: its layer {site.box_layer} has no record"
    ]
    assert (done.status, done.err.decode()) == (1, verdict(report))
    assert check(site, "-rf").status == 0
    assert said(check(site)) == CLEAN
    _containers_storage_uses(site, {"base", "child", "box_layer", "image", "box"})


@pytest.mark.parametrize("driver", DRIVERS)
def test_what_nothing_helps_against_is_an_error_of_the_repair(driver: str, make: Callable[..., Site]) -> None:
    """Without its tar-split file a layer is whole, but for its archive. They delete it, and all that needs it."""
    site = make(driver)
    gone(site.split(site.base))
    before = check(site)
    assert ("layer", site.base) in parsed(before.text)
    done = check(site, "-rf")
    reason = f"layer {site.base}: its files are whole; nothing has the like of {site.split(site.base)}"
    assert done.text == before.text
    assert (done.status, done.err.decode()) == (1, f"{reason}\n" * 2)
    assert check(site).text == before.text
    peers.podman(site.place, "create", "img:1", "x", driver=driver)
