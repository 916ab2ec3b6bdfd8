"""The contract between the store and a graph driver: where the files of a layer lie, and how they get there.

The words
---------

    layer           a file tree under an id. An *image layer* is filled once and then only read; a *writable* layer
                    is the top of a container and changes while it runs. Ids are directory names: chosen by callers,
                    so every one is passed to `check_id` before it becomes part of a path.
    parent          the layer whose files this one starts from. Which layer has which parent is written in the
                    store's records; a driver is told, and may keep notes of its own (overlay's `lower`).
    home            `<graph root>/<driver>`: everything the driver keeps. `<run root>/<driver>` is its run home:
                    what must not survive a reboot (mount points of layers that lie in other stores, probe results).
    image store     an optional second root that receives new image layers; writable layers stay at home.
    additional store   a foreign root, only ever read: never write there, never remove there.
    mappings        which ids of a container are which ids of the host (`model.idmap`). `mappings` of `diff` and
                    `unpacking` translate between what an archive says and what lies on disk.
    shifting        mapping ids while a layer is mounted, instead of re-owning its files on disk.
    naive           diff, changes and unpacking worked out by comparing and filling mounted trees (`naive.py`).
                    A driver that stores differences (overlay) has quicker ways of its own.

Life of a layer
---------------

    create ──▶ unpacking ──▶ (shift) ──▶ sync ──▶ the record loses its `incomplete` flag
                                                    │
                       mount / unmount, diff, changes, diff_size, usage, files      any number of times
                                                    │
                                                  remove ──▶ set aside under the lock, unlinked after it

 1. The store holds the lock of its layer table and has written a record flagged `incomplete`. Only then the driver
    is asked to `create`: if this process dies, the next writer finds the flag and calls `remove`.
 2. `unpacking` fills the layer from an archive, entry by entry. `shift` re-owns what a template or parent with
    other mappings brought along; only between `create` and first use.
 3. `sync` makes the bytes durable, and it alone. Bytes before names, names before records, records before success.
 4. `mount` makes the files visible and returns a path, `unmount` undoes one `mount`. Counting mounts across
    processes is the store's work, under its lock; a driver that really mounts also counts inside the process.
 5. `remove` makes the layer unusable at once by moving its directories away through the callable that it is given
    (a rename into a temporary directory below one of `temp_roots()`, with a lock of its own). The store deletes
    what was set aside when its locks are free. What a dead process left there is found by the same lock.

Rules for a driver
------------------

Rule 1: A driver knows directories, not records: no names, no JSON, no locks of the store.
Rule 2: A `create` that fails leaves nothing. A `create` that finds something at the place raises `DuplicateID` and
        touches nothing of it.
Rule 3: Nothing outside home, run home and the image store is ever written, whatever an id, a symlink or an
        archive says. Content is reached by handle (`system.beneath`, `stream.unpack`), never by joined strings.
Rule 4: Whatever an option asks for and this driver cannot do is an error at the start, in the peers' words.
Rule 5: What only some drivers can do is a small class of its own, asked for by type:
        `isinstance(driver, SupportsFiles)`. No method raises "not supported".

A worked example
----------------

A base layer, a child of it, and what the child changed. (The store does just this, with records and locks around
it; `tests/contract/test_example.py` runs these lines.)

    >>> from orlop.drivers import registry
    >>> driver = registry.open_driver("vfs", graph_root=graph_root, run_root=run_root, durable=False)
    >>> driver.create("base", None, writable=False)
    >>> with driver.unpacking("base", None) as unpacker:
    ...     for entry, payload in archive:
    ...         unpacker.entry(entry)
    ...         unpacker.data(payload)
    ...     result = unpacker.finish()
    >>> driver.sync("base")

    >>> driver.create("box", "base", writable=True)
    >>> root = driver.mount("box")
    >>> with open(root + "/etc/motd", "w") as file:
    ...     print("ahoy", file=file)
    >>> driver.unmount("box")
    >>> for change in driver.changes("box", "base"):
    ...     print(change)
    C /etc
    A /etc/motd
    >>> with driver.diff("box", "base") as tar:
    ...     size = len(b"".join(tar))

    >>> sorted(driver.ids())
    ['base', 'box']
    >>> driver.remove("box", set_aside)
    >>> driver.exists("box")
    False
"""

from __future__ import annotations

import abc

from orlop.errors import ConfigError, UnsafeID
from orlop.model.idmap import IDENTITY
from orlop.model.ids import is_component
from orlop.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from orlop.model.changes import Change
    from orlop.model.findings import Finding
    from orlop.model.idmap import IDMappings
    from orlop.model.staging import DifferOptions
    from orlop.stream.pieces import PieceStream
    from orlop.stream.unpack import Unpacker

    SetAside = Callable[[str, str], object]
    """`set_aside(path, temp_root)`: rename the directory `path` into a temporary directory below `temp_root`."""


class DriverOptions(Value):
    """What a driver is opened with.

    `home` and `run_home` are `<graph root>/<name asked for>` and `<run root>/<the same>`. `image_store` is a root,
    not a home. `options` are the strings `key=value` of the configuration (`spec/config.md` 12), read by the driver
    itself. `durable` is off when the store was opened with durability "none": then nothing is ever synced.
    `rootless` says that this process lacks the powers of the host's root (`spec/config.md` 2). `shifting` is off
    where the environment forbids mapping ids while mounting (`_CONTAINERS_OVERLAY_DISABLE_IDMAP`).
    """

    __slots__ = (
        "durable",
        "graph_root",
        "home",
        "image_store",
        "options",
        "rootless",
        "run_home",
        "run_root",
        "shifting",
    )
    __match_args__ = (
        "home",
        "run_home",
        "graph_root",
        "run_root",
        "image_store",
        "options",
        "durable",
        "rootless",
        "shifting",
    )

    home: str
    run_home: str
    graph_root: str
    run_root: str
    image_store: str | None
    options: tuple[str, ...]
    durable: bool
    rootless: bool
    shifting: bool

    def __init__(
        self,
        home: str,
        run_home: str,
        graph_root: str,
        run_root: str,
        image_store: str | None = None,
        options: Iterable[str] = (),
        durable: bool = True,
        rootless: bool = False,
        shifting: bool = True,
    ) -> None:
        self._fill(
            home,
            run_home,
            graph_root,
            run_root,
            image_store or None,
            tuple(options),
            durable,
            rootless,
            shifting,
        )


class Driver(abc.ABC):
    """One way of keeping layers. See the top of this file for the order of calls and the rules.

    Ids are those of the store. Unless said otherwise a layer that does not exist is `FileNotFoundError`: the store
    has looked the id up in its records before it asks, so a missing directory is damage that it reports.
    """

    name: str
    """The canonical name, the prefix of `<name>-layers`, `<name>-images` and `<name>-containers`."""

    reserved_ids: frozenset[str] = frozenset()
    """Names in the directory of the layers that mean something else there (overlay: `l`, `staging`, ...)."""

    def __init__(self, options: DriverOptions) -> None:
        self.options = options
        self.home = options.home

    # --- making and unmaking ---------------------------------------------------------------------------------

    @abc.abstractmethod
    def create(
        self,
        id: str,
        parent: str | None,
        *,
        writable: bool,
        mappings: IDMappings = IDENTITY,
        label: str = "",
        storage_opt: Mapping[str, str] | None = None,
    ) -> None:
        """Make a layer with the content of `parent`, or an empty one whose root belongs to the mapped root.

        `label` is the SELinux mount label of the layer. `storage_opt` are the per-container options of
        `--storage-opt`; only writable layers get any.

        Raises:
            DuplicateID: something lies at that place already.
            NotSupported: a storage option that this driver does not have.
        """

    def create_from_template(
        self,
        id: str,
        template: str,
        parent: str | None,
        *,
        writable: bool,
        mappings: IDMappings = IDENTITY,
        label: str = "",
        storage_opt: Mapping[str, str] | None = None,
    ) -> None:
        """Make a layer with the content of `template`, of which the record will say that `parent` is its parent.

        Every driver so far makes a child of the template: the layer then depends on it, whatever the record says.
        """
        self.create(id, template, writable=writable, mappings=mappings, label=label, storage_opt=storage_opt)

    @abc.abstractmethod
    def remove(self, id: str, set_aside: SetAside) -> None:
        """Make the layer unusable now, handing its directories to `set_aside`. A layer that is not there is fine.

        A driver whose removal is quick as it is (a btrfs subvolume) does it at once and calls nothing.
        """

    @abc.abstractmethod
    def places(self, id: str) -> list[str]:
        """What `remove` would take away, as paths that exist: for showing and measuring. Nothing is changed."""

    def temp_roots(self) -> tuple[str, ...]:
        """The directories that `remove` names to `set_aside`, where leftovers of dead processes are looked for."""
        return ()

    def check_id(self, id: str) -> None:
        """Refuse an id that is not one harmless directory name, or that this driver uses for something else.

        The rule for *new* ids is stricter and is the store's (`model.ids.check_new_id`). This one also meets ids
        from records that somebody else wrote: without it `../../x` in a record flagged incomplete is a directory
        anywhere, removed by the next start.

        Raises:
            UnsafeID: with the driver's name and what is wrong.
        """
        if not is_component(id):
            raise UnsafeID(f"layer id {id[:80]!r} cannot be a directory of driver {self.name!r}", id=id)
        if id in self.reserved_ids:
            raise UnsafeID(f"layer id {id!r} is a name that driver {self.name!r} keeps for itself", id=id)

    # --- what is there ----------------------------------------------------------------------------------------

    @abc.abstractmethod
    def exists(self, id: str) -> bool:
        """Whether something lies at the layer's place; not that it is complete. Other stores count too."""

    @abc.abstractmethod
    def ids(self) -> list[str]:
        """The layers at home, in no order; never those of the image store or of additional stores."""

    @abc.abstractmethod
    def usage(self, id: str) -> tuple[int, int]:
        """Bytes and inodes that the layer itself takes, as `spec/dedup.md` 3 counts them."""

    def status(self) -> list[tuple[str, str]]:
        """What `status` prints about the driver, in the peers' words and order."""
        return []

    def metadata(self, id: str) -> dict[str, str]:
        """What `metadata` prints about the layer (overlay: its directories). Empty when there is nothing to say."""
        return {}

    def additional_stores(self) -> tuple[str, ...]:
        """The additional stores of the options, roots of foreign stores, in order."""
        return ()

    # --- seeing the files -------------------------------------------------------------------------------------

    @abc.abstractmethod
    def mount(
        self,
        id: str,
        *,
        label: str = "",
        mappings: IDMappings = IDENTITY,
        options: Sequence[str] = (),
        volatile: bool = False,
    ) -> str:
        """Make the layer's files visible at the returned absolute path, until `unmount`.

        `mappings` are given only to be applied by the mount, after `supports_shifting` said yes. `options` are
        mount options; a list that is not empty replaces the configured ones.
        """

    @abc.abstractmethod
    def unmount(self, id: str, *, last: bool = False) -> None:
        """Undo one `mount`; with `last` every one.

        `last` is for the store, which counts the mounts of all processes: a mount that it took over from a process
        that died is one for the store, and two for a driver that found it there.
        """

    # --- archives in and out ----------------------------------------------------------------------------------

    @abc.abstractmethod
    def unpacking(
        self,
        id: str,
        parent: str | None,
        *,
        mappings: IDMappings = IDENTITY,
        label: str = "",
        keep_fds: Sequence[int] = (),
    ) -> Unpacker:
        """A context manager that takes the entries of a layer archive and puts them into the layer.

        The work is done by a confined child process; `keep_fds` stay open in it (the layer lock: it must not become
        free while the child still writes).
        """

    @abc.abstractmethod
    def diff(
        self,
        id: str,
        parent: str | None,
        mappings: IDMappings = IDENTITY,
        parent_mappings: IDMappings = IDENTITY,
        *,
        label: str = "",
    ) -> PieceStream:
        """What the layer changes relative to `parent`, as a tar stream that must be closed."""

    @abc.abstractmethod
    def changes(
        self,
        id: str,
        parent: str | None,
        mappings: IDMappings = IDENTITY,
        parent_mappings: IDMappings = IDENTITY,
        *,
        label: str = "",
    ) -> list[Change]:
        """The same as a list of paths; everything is an addition when there is no parent."""

    @abc.abstractmethod
    def diff_size(
        self,
        id: str,
        parent: str | None,
        mappings: IDMappings = IDENTITY,
        parent_mappings: IDMappings = IDENTITY,
        *,
        label: str = "",
    ) -> int:
        """Bytes of the files that were added or modified. (Not the length of `diff`: no headers, no padding.)"""

    # --- owners -----------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def shift(self, id: str, old: IDMappings, new: IDMappings, *, label: str = "") -> None:
        """Re-own a fresh layer's files, which lie there as `old` maps them, as `new` maps them.

        Valid between `create` and the first use only.
        """

    def supports_shifting(self, mappings: IDMappings) -> bool:
        """Whether `mount` can apply these mappings, so that layers are kept with the host's ids."""
        return False

    # --- durability and the end -------------------------------------------------------------------------------

    @abc.abstractmethod
    def sync(self, id: str) -> None:
        """Make everything that was written to the layer survive a power loss. Does nothing unless `durable`."""

    def shutdown(self) -> None:
        """Undo what opening the driver did to the machine. Called when no layer is mounted any more."""
        return


class LayerFiles(abc.ABC):
    """The files of one layer by name, without mounting it: what a layer's exact archive is put together from.

    A context manager; nothing that was opened outlives it, but descriptors that `open` returned are the caller's.
    """

    @abc.abstractmethod
    def open(self, name: bytes) -> int:
        """A descriptor for reading the regular file `name`, found beneath the layer's root and never outside it.

        `name` comes from an archive: absolute names, `..` and symlinks on the way are resolved as if the layer
        were the whole world. `OSError` if it is not there, `UnsafePath` if it is anything but a regular file.
        """

    def close(self) -> None:
        """Let go of the layer."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SupportsFiles(abc.ABC):
    """Drivers whose layers lie on disk as plain files."""

    @abc.abstractmethod
    def files(self, id: str) -> LayerFiles:
        """The layer's own files by name; of drivers that keep differences, those of its ancestors too."""


class SupportsTrees(abc.ABC):
    """Drivers that keep every layer as one directory with all of its files, those of its ancestors included."""

    @abc.abstractmethod
    def tree(self, id: str) -> str:
        """The layer's directory, an absolute path: what a mount would show, without one."""


class SupportsSharing(abc.ABC):
    """Drivers of whose files those with the same content can be made to lie on the same blocks."""

    @abc.abstractmethod
    def own_files(self, id: str) -> str | None:
        """The directory of what the layer itself holds, an absolute path, if it lies in a home that is ours.

        Nothing of a foreign store is ever shared (`spec/dedup.md` 1).
        """


class LayerTree(Value):
    """Where the content of a layer lies, for who compares it with what was put into it.

    directories   nearest first: what one has hides what a later one has
    whole         they hold all that the layer shows, what lies below it included (vfs); else only what it changes
    alone         nothing else is in them; False for a copy of another layer, which shares what it did not re-own
    force_mask    the mode that all has on disk, real owners and modes standing in an attribute; None: no such thing
    mark          of differences: the attribute of opaque directories; "" where whiteouts are plain files
    """

    __slots__ = __match_args__ = ("directories", "whole", "alone", "force_mask", "mark")

    directories: tuple[str, ...]
    whole: bool
    alone: bool
    force_mask: int | None
    mark: str

    def __init__(
        self,
        directories: Iterable[str],
        *,
        whole: bool,
        alone: bool = True,
        force_mask: int | None = None,
        mark: str = "",
    ) -> None:
        self._fill(tuple(directories), whole, alone, force_mask, mark)

    def files(self) -> LayerFiles:
        """All files there by name, to be closed; what is in them, wherever that lies. OSError as `SupportsFiles`."""
        from orlop.drivers.layerfiles import DirectoryFiles, older_files

        return DirectoryFiles(self.directories if self.alone else map(older_files, self.directories))


class Inspector(abc.ABC):
    """Looks at what a driver keeps, changing nothing. One for each check: it remembers what it saw.

    Layers of additional stores are looked at as well, and findings about them are marked `read_only`.
    """

    @abc.abstractmethod
    def faults(self, id: str, parent: str | None, is_copy_of: Callable[[str], bool]) -> list[Finding]:
        """What is wrong with the places of a layer that has a record; its content is another matter.

        `is_copy_of(other)` says whether, by the records, the layer may have been made from `other` as its template.
        """

    @abc.abstractmethod
    def tree(self, id: str, parent: str | None) -> LayerTree | None:
        """Where the layer's content lies; None if it is kept in a way that cannot be compared.

        Raises:
            OSError, Damaged: it cannot be told; `faults` says why.
        """

    @abc.abstractmethod
    def copies(self, id: str) -> list[LayerTree]:
        """Where additional stores have a layer of this id, whether or not there is one at home."""

    @abc.abstractmethod
    def mend(self, id: str, below: str | None, above: Sequence[str]) -> None:
        """Make the places of a layer of ours anew, as far as `faults` finds something wrong with them.

        The layers are held exclusively. `below` is the layer right below it; `above` are those right upon it, whose
        notes may tell what it was called. What cannot be made anew stays as it is.
        """


class SupportsInspection(abc.ABC):
    """Drivers whose keeping can be looked into."""

    @abc.abstractmethod
    def inspector(self) -> Inspector: ...


class DependsOnLayers(abc.ABC):
    """Drivers that keep differences: a layer without those below it is worth nothing."""

    @abc.abstractmethod
    def needs(self, id: str) -> list[str]:
        """The layers, of our own homes, without which this one cannot be mounted; whether or not records say so.

        `OSError` or `Damaged` if that cannot be told. Layers that are missing already are passed over.
        """


class Leftover(Value):
    """Something that a dead process left in a driver's directories and that is no layer.

    `kind` is "file", "directory" or "link", `reason` half a sentence. With `keep` it looks like a leftover, and
    `reason` says why it must stay.
    """

    __slots__ = ("keep", "kind", "path", "reason")
    __match_args__ = ("kind", "path", "reason", "keep")

    kind: str
    path: str
    reason: str
    keep: bool

    def __init__(self, kind: str, path: str, reason: str, keep: bool = False) -> None:
        self._fill(kind, path, reason, keep)


class SupportsLeftovers(abc.ABC):
    """Drivers in whose directories more than layers can be left behind. `storage.lock` and the layers are held."""

    @abc.abstractmethod
    def leftovers(self) -> list[Leftover]:
        """What is there; nothing is changed."""

    @abc.abstractmethod
    def drop(self, leftover: Leftover, set_aside: SetAside) -> None:
        """Take one away.

        Raises:
            Conflict: it came into use meanwhile.
        """


class SupportsStaging(abc.ABC):
    """Drivers that take the files of a layer as a directory made ready beforehand (`spec/chunked.md` 19).

        stage ──▶ (a differ fills the directory) ──▶ place_staged        under the lock of the layers
                                                └─▶ drop_staged

    `stage` needs no lock of the store. The directory has a lock of its own, which this process holds until one of the
    other two; who finds it free, after this process died, removes the directory.
    """

    @abc.abstractmethod
    def stage(self, mappings: IDMappings) -> tuple[str, DifferOptions]:
        """Make an empty directory where the image layers lie; its absolute path, and how it is to be filled."""

    @abc.abstractmethod
    def place_staged(self, id: str, target: str, set_aside: SetAside, *, root_is_set: bool) -> None:
        """Make the directory the content of a layer that `create` has made, in the place of what it holds.

        `root_is_set`: owner and mode of the directory itself are meant as they are; else they become those that the
        layer's root has.

        Raises:
            Conflict: this process does not hold the lock of the directory (any more).
            NotSupported: the layer lies on another file system or mount.
        """

    @abc.abstractmethod
    def drop_staged(self, target: str) -> None:
        """Remove the directory and what it holds. One that is gone already is fine.

        Raises:
            UnsafePath: it is no path that `stage` gives.
            Conflict: another process holds its lock.
        """

    @abc.abstractmethod
    def prune_staged(self) -> None:
        """Remove the directories of processes that died. The layers are held exclusively."""

    @abc.abstractmethod
    def differ_target(self, id: str) -> str:
        """The directory with the content of a layer, an absolute path."""


class Option(Value):
    """One option string taken apart: `key` in lower case for comparing, `given` as written for error texts."""

    __slots__ = ("given", "key", "value")
    __match_args__ = ("key", "value", "given")

    key: str
    value: str
    given: str

    def __init__(self, key: str, value: str, given: str) -> None:
        self._fill(key, value, given)


def parse_options(options: Iterable[str]) -> list[Option]:
    """Cut option strings at their first `=` and trim both halves (`spec/config.md` 12).

    Raises:
        ConfigError: a string without `=`.
    """
    found = []
    for text in options:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(
                f'storage option "{text}" has no "=": wanted key=value',
                peer=f"unable to parse key/value option: {text}",
                option=text,
            )
        found.append(Option(key.strip().lower(), value.strip(), key.strip()))
    return found


_BOOLEANS = dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True)
_BOOLEANS |= dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False)


def parse_boolean(option: Option) -> bool:
    """The value of a boolean option; the peers take these twelve spellings and no other.

    Raises:
        ConfigError: anything else, such as `yes`.
    """
    try:
        return _BOOLEANS[option.value]
    except KeyError:
        raise ConfigError(
            f'storage option "{option.given}" is a boolean: wanted true or false, found "{option.value}"',
            peer=f'strconv.ParseBool: parsing "{option.value}": invalid syntax',
            option=option.given,
        ) from None
