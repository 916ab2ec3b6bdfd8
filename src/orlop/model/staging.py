"""A layer's files made ready in a directory before there is a layer, which then takes them over in one step
(`spec/chunked.md` 18-20).

Rule: what makes them ready, a *differ*, is the caller's, and may use the store: no lock of a table is held then.
"""

from __future__ import annotations

import abc

from orlop.model.digest import Digest
from orlop.model.idmap import IDENTITY
from orlop.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import BinaryIO

    from orlop.model.idmap import IDMappings

TOC_ITEM = "zstd-chunked-manifest"
"""Big-data item of a layer: the table of contents that it was pulled by, as JSON, byte for byte."""

TOC_FORMAT_ITEM = "zstd-chunked-layer-data"
"""Big-data item of a layer: how its directory is laid out."""


class DifferOptions(Value):
    """What a driver wants of a differ, in the words of `stream.unpack.Unpacker`.

    Attributes:
        mappings: the archive's owners, container ids, become host ids.
        ignore_chown_errors: an owner that cannot be set is no error.
        in_userns: this process is root of a user namespace only.
        whiteouts: the attribute that marks opaque directories; None: whiteouts stay plain `.wh.` files.
        force_mask: the mode that everything gets, real owners and modes going to an attribute; None: no such thing.
        keep_fds: what a child process that writes into the directory must hold until it ends.
    """

    __slots__ = __match_args__ = (
        "mappings",
        "ignore_chown_errors",
        "in_userns",
        "whiteouts",
        "force_mask",
        "keep_fds",
    )

    mappings: IDMappings
    ignore_chown_errors: bool
    in_userns: bool
    whiteouts: str | None
    force_mask: int | None
    keep_fds: tuple[int, ...]

    def __init__(
        self,
        mappings: IDMappings = IDENTITY,
        *,
        ignore_chown_errors: bool = False,
        in_userns: bool = False,
        whiteouts: str | None = None,
        force_mask: int | None = None,
        keep_fds: Iterable[int] = (),
    ) -> None:
        self._fill(mappings, ignore_chown_errors, in_userns, whiteouts, force_mask, tuple(keep_fds))


class StagedOutput(Value):
    """What a differ made, and what the record of a layer is to say about it.

    Attributes:
        target: the directory that holds the files; the store sets it.
        mappings: those that the files were made with; the store sets them.
        uncompressed_digest: sha256 of the tar that the files stand for, or "" if it was not computed.
        compressed_digest: of the blob, if all of it was read and verified, or "".
        toc_digest: of the table of contents, or "".
        size: bytes of the tar; -1 if not known, which goes only with no `uncompressed_digest`.
        uids, gids: the owners that occur in it.
        root_mode: mode that the differ gave the directory itself; None: the store decides.
        metadata: text for the record.
        data: big-data items, by key.
        tar_split: the lines of a tar-split record, plain or as one gzip stream; a file open at its start, which the
            store closes when the output is applied or cleaned up. None: the tar cannot be given back byte for byte.
    """

    __slots__ = __match_args__ = (
        "target",
        "mappings",
        "uncompressed_digest",
        "compressed_digest",
        "toc_digest",
        "size",
        "uids",
        "gids",
        "root_mode",
        "metadata",
        "data",
        "tar_split",
    )

    target: str
    mappings: IDMappings
    uncompressed_digest: str
    compressed_digest: str
    toc_digest: str
    size: int
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    root_mode: int | None
    metadata: str
    data: Mapping[str, bytes]
    tar_split: BinaryIO | None

    def __init__(
        self,
        target: str = "",
        mappings: IDMappings = IDENTITY,
        *,
        uncompressed_digest: str = "",
        compressed_digest: str = "",
        toc_digest: str = "",
        size: int = -1,
        uids: Iterable[int] = (),
        gids: Iterable[int] = (),
        root_mode: int | None = None,
        metadata: str = "",
        data: Mapping[str, bytes] | None = None,
        tar_split: BinaryIO | None = None,
    ) -> None:
        """Raises `InvalidDigest`, and `ValueError` for a tar whose digest is known and whose size is not."""
        for digest in filter(None, (uncompressed_digest, compressed_digest, toc_digest)):
            Digest.parse(digest)
        if size < (0 if uncompressed_digest else -1):
            raise ValueError(f"a tar of {size} bytes whose digest is {uncompressed_digest or 'not known'}")
        self._fill(
            target,
            mappings,
            uncompressed_digest,
            compressed_digest,
            toc_digest,
            size,
            tuple(sorted(set(uids))),
            tuple(sorted(set(gids))),
            root_mode,
            metadata,
            dict(data or {}),
            tar_split,
        )

    __hash__ = None  # type: ignore[assignment]  # it holds a map and an open file

    def placed(self, target: str, mappings: IDMappings) -> StagedOutput:
        """The same, with the two members that the store sets."""
        made = object.__new__(StagedOutput)
        made._fill(target, mappings, *self._values()[2:])
        return made

    def close(self) -> None:
        """Close `tar_split`; a second call does nothing."""
        if self.tar_split is not None:
            self.tar_split.close()


class Differ(abc.ABC):
    """Makes the files of a layer ready: what `Store.prepare_staged_layer` is given. For one call.

    Whoever made it closes what it has open, whatever comes of the call.
    """

    @abc.abstractmethod
    def apply(self, target: str, options: DifferOptions) -> StagedOutput:
        """Fill `target`, an empty directory, as `options` want it; an error leaves there what it likes.

        Names that somebody else chose are never joined to `target`: `stream.unpack.staged_unpacker` keeps them in it.
        """
