"""Automatic user namespaces: ids for a container that no other container has (`spec/userns.md` 4).

Rule 1: the caller holds `userns.lock` from before `allocate` until the maps are in the container's record, as does
        everybody who records maps. Two that look at the same containers at once would give out the same ids.
Rule 2: used is what the record of any container says, whoever wrote it. If one cannot be read, nothing is given out.
Rule 3: an image is hostile, its /etc/passwd too. The file is found beneath the image's root and nowhere else, nothing
        but a regular file is opened, and so much is read and no more (CVE-2024-9676: a link to the host's files, or
        to a device that never ends).
"""

from __future__ import annotations

import errno
import os

from orlop.errors import BadRecords, LayerUnknown, LimitExceeded, NotEnoughIDs, StorageError, UnsafePath
from orlop.formats import passwd
from orlop.formats.limits import ACCOUNTS_FILE_MAX
from orlop.model.idmap import IDMap, IDMappings
from orlop.model.idset import IDSet, pairs
from orlop.store.tables import READ
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from orlop.drivers.api import Driver
    from orlop.formats.recordfiles import Aside
    from orlop.model.autouserns import AutoUserNS
    from orlop.model.record import Document
    from orlop.records.rows import Row
    from orlop.records.trash import Trash
    from orlop.store.engine import Engine
    from orlop.store.tables import Tables

DEFAULT_USER = "containers"
"""Whose subordinate ids a store of root gives out, if the configuration names nobody else."""

_ALL = IDSet([(0, 2**32 - 1)])  # the next one is nobody's: to the kernel it says "leave it as it is"
_OUR_TROUBLE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_NOUNS = ("user", "group")
_MEMBERS = ("uidmap", "gidmap")


def allocate(
    engine: Engine, tables: Tables, rubbish: Trash, image: Row | None, wanted: AutoUserNS
) -> IDMappings:
    """Maps for a container that is about to be made, of `image` or of none.

    `tables` hold the layers, for writing, and with an image the images; not the containers.

    Raises:
        NotEnoughIDs: too few of the ids that are set aside are free, or none are set aside.
        LimitExceeded: the image wants more ids than the configuration allows, or its files have no end.
        LayerUnknown: a layer of the image has no record. BadRecords: nobody can tell what a container uses.
        InvalidMappings: the additional entries overlap with each other.
    """
    size = _size(engine, tables, rubbish, image, wanted)
    available = _Available(engine)
    used = _used(engine)
    maps = IDMappings(
        available.cut(0, size, used[0], wanted.additional.uids),
        available.cut(1, size, used[1], wanted.additional.gids),
    )
    maps.check_overlaps()
    return maps


def cut(
    size: int, available: IDSet, used: IDSet, additional: Sequence[IDMap]
) -> tuple[tuple[IDMap, ...], int]:
    """A map of `size` ids from 0 on to the lowest ids that are free, then the additional entries; and what lacks.

    Where additional entries have a container id, no other is given for it (`spec/userns.md` 4.5).
    """
    asked = IDSet([(0, size)]) - IDSet((m.container_id, m.container_id + m.size) for m in additional)
    free = available - (used | _host_ids(additional))
    given = free.lowest(asked.count)
    runs = [IDMap(*run) for run in pairs(asked, given)]
    return (*runs, *additional), asked.count - given.count


def _host_ids(maps: Iterable[IDMap]) -> IDSet:
    return IDSet((m.host_id, m.host_id + m.size) for m in maps)


# --- what may be given out ----------------------------------------------------------------------------------


class _Available:
    """The ids that are set aside for containers; looked up when an open store first needs them."""

    def __init__(self, engine: Engine) -> None:
        self._problem: str | None = None
        found = engine.ids_set_aside
        if found is None:
            try:
                found = engine.ids_set_aside = self._look_up(engine)
            except (StorageError, OSError) as error:
                # Not remembered: an administrator may be about to put it right.
                from orlop.system import log

                self._problem = str(error)
                log.warn(__name__, "no ids for automatic user namespaces: %s", error)
                found = "", IDSet(), IDSet()
        self._owner, *self._ids = found

    @staticmethod
    def _look_up(engine: Engine) -> tuple[str, IDSet, IDSet]:
        from orlop.config import environment
        from orlop.system import subids

        options = engine.options
        rootless = options.rootless
        owner = environment.login_name() if rootless else options.auto_userns_user or DEFAULT_USER
        maps = subids.mappings_of(owner, owner)
        uids, gids = _host_ids(maps.uids), _host_ids(maps.gids)
        if rootless:
            # We are root of a namespace that has just these ids, from 1 on; 0 is the user.
            uids, gids = (IDSet([(1, ids.count + 1)]) for ids in (uids, gids))
        return owner, uids - (uids - _ALL), gids - (gids - _ALL)

    def cut(self, kind: int, size: int, used: IDSet, additional: Sequence[IDMap]) -> tuple[IDMap, ...]:
        """As the function; `kind`: 0 for users, 1 for groups. Raises NotEnoughIDs."""
        available = self._ids[kind]
        maps, missing = cut(size, available, used, additional)
        if missing:
            noun = _NOUNS[kind]
            text = self._problem or (
                f'{available.count} are set aside for "{self._owner}", '
                f"and {(available - used).count} of them are free"
            )
            raise NotEnoughIDs(
                f"an automatic user namespace of {size} ids needs {missing} more {noun} ids than there are: {text}",
                size=size,
                missing=missing,
                kind=noun,
            )
        return maps


def _used(engine: Engine) -> tuple[IDSet, IDSet]:
    """The host's user ids and group ids that containers of this store have."""
    with engine.open(containers=READ) as tables:
        documents = [*tables.containers.rows.documents()]
        # What was set aside is not acted on, but the container may be running.
        documents += map(_maps_aside, tables.containers.table.asides())
    uids, gids = (
        IDSet(
            (entry["host_id"], entry["host_id"] + entry["size"])
            for document in documents
            for entry in document.get(key) or ()
        )
        for key in _MEMBERS
    )
    return uids, gids


def _maps_aside(aside: Aside) -> Document:
    """The maps of a record that does not fit, if it is not the maps that do not."""
    from orlop.formats import gojson
    from orlop.formats.records import Misfit, fitted
    from orlop.model.container import Container

    try:
        value = gojson.decode(aside.text)
        members = value.items() if type(value) is dict else ()
        maps = {key: item for key, item in members if key.lower() in _MEMBERS}
        return fitted(Container, {"id": "aside", **maps})
    except (Misfit, gojson.SyntaxProblem) as problem:
        raise BadRecords(
            f"which ids a container has cannot be told, so none are given out: {aside} ({problem})",
            peer="cannot read mappings: invalid container record",
            id=aside.id,
        ) from problem


# --- how many -----------------------------------------------------------------------------------------------


def _size(engine: Engine, tables: Tables, rubbish: Trash, image: Row | None, wanted: AutoUserNS) -> int:
    """How many ids the namespace has, from 0 on."""
    if wanted.size:
        return wanted.size
    options = engine.options
    size = max(options.auto_userns_min_size, wanted.initial_size, 1)
    if image is not None:
        size = max(size, _size_of_image(engine, tables, rubbish, image, wanted))
    largest = options.auto_userns_max_size
    if size > largest > 0:
        text = f"the container needs a user namespace with size {size} that is bigger than the maximum value"
        text += f" allowed with userns=auto {largest}"
        raise LimitExceeded(text, peer=text, size=size, largest=largest)
    return size


def _size_of_image(engine: Engine, tables: Tables, rubbish: Trash, image: Row, wanted: AutoUserNS) -> int:
    """How many ids the owners of an image's files, and its users and groups, need."""
    chain = _chain(tables, image)
    owners = [id for row in chain for member in ("uidset", "gidset") for id in row.document.get(member) or ()]
    given = (wanted.passwd_file, wanted.group_file)
    accounts = (
        _accounts(None, given) if all(given) else _accounts_of_layer(engine, tables, rubbish, chain[0], given)
    )
    return max(max(owners, default=-1) + 1, passwd.ids_needed(*accounts))


def _chain(tables: Tables, image: Row) -> list[Row]:
    """The layers of an image, from the top down; not one of them may be missing."""
    chain: list[Row] = []
    at = image.document.get("layer") or ""
    while at or not chain:
        row = next(
            (
                row
                for view in (tables.layers, *tables.other_layers)
                if (row := view.rows.by_id(at)) is not None
            ),
            None,
        )
        if row is None:
            raise LayerUnknown(
                f"image {image.id} is built on layer {at!r}, which has no record",
                peer=f'cannot find layer "{at}"',
                ref=at,
            )
        if row in chain:
            raise BadRecords(f"layer {row.id} is an ancestor of itself", id=row.id)
        chain.append(row)
        at = row.document.get("parent") or ""
    return chain


# --- the files ----------------------------------------------------------------------------------------------


def _accounts_of_layer(
    engine: Engine, tables: Tables, rubbish: Trash, top: Row, given: tuple[str, str]
) -> tuple[bytes, bytes]:
    """Passwd and group file of a layer, or those of the host that are given instead."""
    from orlop.drivers.api import SupportsTrees
    from orlop.store import layering

    driver = engine.ready_driver
    if isinstance(driver, SupportsTrees):
        return _accounts(driver.tree(top.id), given)

    def look(id: str) -> tuple[bytes, bytes]:
        with _mounted(driver, id) as tree:
            return _accounts(tree, given)

    # Not the layer itself: it may be mounted already, and if we die, nobody unmounts it. The maps are those of its
    # parent, so that nothing has to change owners: root reads the files all the same.
    draft = layering.Draft(parent=top, writable=False, volatile=True, mappings=layering.mappings_of(top))
    found: tuple[bytes, bytes] = layering.with_passing_layer(engine, tables, rubbish, draft, look)
    return found


class _mounted:
    """A block with a layer that nobody else knows of, mounted."""

    def __init__(self, driver: Driver, id: str) -> None:
        self._driver = driver
        self._id = id

    def __enter__(self) -> str:
        return self._driver.mount(self._id, options=("ro",))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._driver.unmount(self._id)
        except (StorageError, OSError) as problem:
            if error is None:
                problem.add_note(f'unmounting temporary layer "{self._id}"')
                raise
            error.add_note(f'and unmounting temporary layer "{self._id}" failed: {problem}')


def _accounts(tree: str | None, given: tuple[str, str]) -> tuple[bytes, bytes]:
    """Passwd and group file: the one of the host that is given, or the one that lies in the tree.

    What cannot be read is empty; a layer that is not there is not.
    """
    if tree is None:
        return _content(None, given[0], b""), _content(None, given[1], b"")
    root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return _content(root, given[0], b"etc/passwd"), _content(root, given[1], b"etc/group")
    finally:
        os.close(root)


def _content(root: int | None, given: str, name: bytes) -> bytes:
    """The file that is given, or the one of that name beneath a root.

    Raises:
        LimitExceeded: more than anybody has users.
    """
    try:
        return _read(given) if given or root is None else _read_beneath(root, name)
    except LimitExceeded as problem:
        shown = given or f"/{name.decode()} of the image"
        raise LimitExceeded(
            f"{shown} has more than {ACCOUNTS_FILE_MAX} bytes; give the size of the namespace instead",
            path=shown,
            limit=ACCOUNTS_FILE_MAX,
        ) from problem
    except UnsafePath:
        return b""  # a directory, a device, a FIFO: not for reading
    except OSError as error:
        if error.errno in _OUR_TROUBLE:
            raise
        return b""


def _read(path: str) -> bytes:
    return files.read(path, limit=ACCOUNTS_FILE_MAX, follow_symlinks=True)


def _read_beneath(root: int, name: bytes) -> bytes:
    from orlop.system.beneath import Root

    file = Root(root).open_regular(name)
    try:
        return _read(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
