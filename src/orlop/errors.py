"""Every exception of the package.

    StorageError
    ├── NotFound (also KeyError)
    │   ├── LayerUnknown  ImageUnknown  ContainerUnknown  NotAnID
    │   ├── NotALayer  NotAnImage  NotAContainer
    │   ├── DataUnknown  SizeUnknown  DigestUnknown
    │   └── AccountUnknown
    ├── Conflict
    │   ├── DuplicateID  DuplicateName
    │   ├── LayerHasChildren  LayerUsedByImage  LayerUsedByContainer  ImageUsedByContainer
    │   ├── ParentIsContainer  LayerNotMounted  StillMounted  NotEnoughIDs  PlanOutdated
    │   └── LockTimeout (also TimeoutError)
    ├── ReadOnly
    ├── Damaged
    │   ├── BadRecords          a file of records, or one record
    │   ├── BadArchive          a tar, a compressed stream
    │   ├── BadTarSplit         the note from which a layer is put together again
    │   ├── BadTOC              the table of contents of a layer that is pulled in part
    │   └── ContentChanged      a file of a layer is not what was recorded
    ├── Unsafe
    │   ├── UnsafePath  UnsafeID  UnsafeLink  UnsafeOwner
    │   └── DuplicatePath
    ├── LimitExceeded
    ├── NotSupported
    │   ├── DriverNotSupported  PrerequisitesMissing  IncompatibleFilesystem  PartialPullImpossible
    │   └── CompressionNotSupported  ReflinksNotSupported
    ├── ConfigError
    │   └── IncompleteOptions  InvalidMappings
    └── InvalidDigest, InvalidKey (also ValueError)

Rules. Catch by branch, raise by leaf. `str(error)` is one sentence: what was wanted, what was found, where.
The facts are attributes (`error.id`, `error.path`, ...). `peer` is the text by which the programs that share
the store know the condition (`spec/errors.md` section 1); clients match on it, so the drop-in prints it.
Input from outside raises `Unsafe` or `Damaged`; a wrong call raises `ValueError` or `TypeError`.
"""


class StorageError(Exception):
    """Anything this package has to say. Keyword arguments become attributes of the error.

    `peer=` replaces the class's text where one class stands for several texts of the peers.
    """

    peer = ""

    def __init__(self, message: str = "", /, *, peer: str | None = None, **facts: object) -> None:
        if peer is not None:
            self.peer = peer
        super().__init__(message or self.peer)
        self.facts = facts

    def __getattr__(self, name: str) -> object:
        # Facts read like attributes; a fact that was not given is an ordinary AttributeError.
        facts = self.__dict__.get("facts")
        if facts is not None and name in facts:
            return facts[name]
        raise AttributeError(f"{type(self).__name__} carries no fact named {name!r}")

    def __str__(self) -> str:
        # KeyError would show the repr of its argument; ours are sentences.
        return str(self.args[0]) if self.args else self.peer


# --- something is not there ---------------------------------------------------------------------------------


class NotFound(StorageError, KeyError):
    """A reference (id, name or unique prefix) or an item that the store does not hold."""


class LayerUnknown(NotFound):
    peer = "layer not known"


class ImageUnknown(NotFound):
    peer = "image not known"


class ContainerUnknown(NotFound):
    peer = "container not known"


class NotAnID(NotFound):
    peer = "identifier is not a layer, image, or container"


class NotALayer(NotFound):
    peer = "identifier is not a layer"


class NotAnImage(NotFound):
    peer = "identifier is not an image"


class NotAContainer(NotFound):
    peer = "identifier is not a container"


class DataUnknown(NotFound):
    """No big-data item of that key."""

    peer = "file does not exist"


class SizeUnknown(NotFound):
    peer = "size is not known"


class DigestUnknown(NotFound):
    peer = "could not compute digest of item"


class AccountUnknown(NotFound):
    """No user or group of this machine."""

    peer = "unable to find entry"


# --- something is in the way --------------------------------------------------------------------------------


class Conflict(StorageError):
    """The store is not in the state that the operation needs."""


class DuplicateID(Conflict):
    peer = "that ID is already in use"


class DuplicateName(Conflict):
    peer = "that name is already in use"


class LayerHasChildren(Conflict):
    peer = "layer has children"


class LayerUsedByImage(Conflict):
    peer = "layer is in use by an image"


class LayerUsedByContainer(Conflict):
    peer = "layer is in use by a container"


class ImageUsedByContainer(Conflict):
    peer = "image is in use by a container"


class ParentIsContainer(Conflict):
    peer = "would-be parent layer is a container"


class LayerNotMounted(Conflict):
    peer = "layer is not mounted"


class StillMounted(Conflict):
    """A layer is mounted, and the operation needs all of them unmounted."""

    peer = "layer is in use by a container"


class NotEnoughIDs(Conflict):
    """Automatic user namespaces: of the ids that are set aside, too few are free."""

    peer = "not enough unused IDs in user namespace"


class PlanOutdated(Conflict):
    """The store is not any more as it was when a plan was made; nothing of the plan was done."""


class LockTimeout(Conflict, TimeoutError):
    """A lock was not free within `lock_timeout` seconds; or who wants it has it, and would wait for itself."""

    peer = "resource temporarily unavailable"


class ReadOnly(StorageError):
    """A change to a store, table or lock that is open for reading only."""

    peer = "called a write method on a read-only store"


# --- what lies on disk, or came from outside, is broken -----------------------------------------------------


class Damaged(StorageError):
    """Bytes that cannot be what they claim to be."""


class BadRecords(Damaged):
    peer = "error loading storage metadata"


class BadArchive(Damaged):
    """A tar or compressed stream that ends early or is malformed; `peer` says which where clients match on it."""

    peer = "invalid tar header"


class BadTarSplit(Damaged):
    peer = "invalid tar-split"


class BadTOC(Damaged):
    """The table of contents of a blob, or what it says about the blob, is not what it claims to be."""

    peer = "invalid table of contents"


class ContentChanged(Damaged):
    peer = "file integrity checksum failed"


class Unsafe(StorageError):
    """Input that would reach outside its place, or mean two things at once."""


class UnsafePath(Unsafe):
    peer = "invalid path"


class UnsafeID(Unsafe, ValueError):
    peer = "invalid identifier"


class UnsafeLink(Unsafe):
    peer = "invalid link"


class UnsafeOwner(Unsafe):
    peer = "invalid owner"


class DuplicatePath(Unsafe):
    peer = "duplicates of file paths not supported"


class LimitExceeded(StorageError):
    """A length or a count that somebody else chose is past a named limit (`docs/limits.md`)."""


# --- cannot be done here ------------------------------------------------------------------------------------


class NotSupported(StorageError):
    peer = "not supported"


class DriverNotSupported(NotSupported):
    peer = "driver not supported"


class PrerequisitesMissing(NotSupported):
    peer = "prerequisites for driver not satisfied (wrong filesystem?)"


class IncompatibleFilesystem(NotSupported):
    peer = "backing file system is unsupported for this graph driver"


class PartialPullImpossible(NotSupported):
    """This layer cannot be pulled in part here. It can be pulled whole: of no other error is that true."""

    peer = "partial images are disabled"


class ReflinksNotSupported(NotSupported):
    """Files on this file system cannot have blocks in common."""

    peer = "reflinks are not supported on this platform"


class CompressionNotSupported(NotSupported):
    peer = "unsupported compression format"


# --- options and arguments ----------------------------------------------------------------------------------


class ConfigError(StorageError):
    """A configuration file, environment variable or option that cannot be used."""


class IncompleteOptions(ConfigError):
    peer = "missing necessary StoreOptions"


class InvalidMappings(ConfigError, ValueError):
    peer = "invalid mappings specified"


class InvalidDigest(StorageError, ValueError):
    """Not `<algorithm>:<hex>`; `peer` of the instance says which rule was broken."""

    peer = "invalid checksum digest format"


class InvalidKey(StorageError, ValueError):
    """A key that no big-data item can have."""

    peer = "not a valid name for a big data item"
