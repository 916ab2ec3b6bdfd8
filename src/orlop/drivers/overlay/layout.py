"""Where the overlay driver keeps what (`spec/drivers.md` 4.1, 4.12, 4.15).

    <home>/l/<short name>       symlink to ../<id>/diff: what names a layer in the `lower` file of its children
    <home>/<id>/diff            what the layer changes, and more (`content`)
    <home>/<id>/link            the short name
    <home>/<id>/lower           `l/<short name>` of every layer below, nearest first, with `:` between them
    <home>/<id>/{work,merged}   for the kernel, and the mount point

The same in `<image store>/overlay` and in `<additional store>/overlay`, which are other homes.

Rule 1: Only home and the image store are ever written to.
Rule 2: Short name, then `link`, then `lower`: what a crash leaves is either complete or put right by `links.recover`.
Rule 3: A short name is followed only where it leads to `../<id>/diff`; it was perhaps written by somebody else.
"""

from __future__ import annotations

import errno
import os

from orlop.drivers.overlay import content, links
from orlop.errors import BadRecords, DuplicateID, LimitExceeded
from orlop.model.ids import is_component
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.drivers.overlay.content import Content

STAGING = "staging"
"""Where content is made ready for layers that are not there yet (`staging`)."""

STAGING_LOCK = "staging.lock"
"""In each of its directories: held by who makes it ready."""

TEMP_ROOT = "tempdirs"
"""Where layers lie that were set aside; not there unless something is."""

RESERVED = frozenset(
    (
        "l",
        STAGING,
        TEMP_ROOT,
        "backingFsBlockDev",
        "backingFsBlockDev.tmp",
        ".has-mount-program",
        "lost+found",  # of a file system that was made for the home alone
    )
)
"""Names in a home that are no layers."""

MAX_DEPTH = 500
"""Layers below one; the kernel takes no more. The peers count the entries of `lower` when they mount."""

_LOWER_LIMIT = 1 << 20
_NEW_ROOT = 0o555


class Layout:
    """The homes of one store. `homes` in the order in which layers are looked for; `own` are those we may change."""

    def __init__(self, home: str, run_home: str, image_store: str | None, additional: list[str]) -> None:
        self.home = home
        self.run_home = run_home
        self.image_home = f"{image_store}/overlay" if image_store else None
        self.own = (home, self.image_home) if self.image_home else (home,)
        self.homes = (*self.own, *[f"{store}/overlay" for store in additional])

    # --- layers -----------------------------------------------------------------------------------------------

    def find(self, id: str) -> str | None:
        """The directory of a layer in the first home that has it."""
        for home in self.homes:
            directory = f"{home}/{id}"
            if os.path.lexists(directory):
                return directory
        return None

    def directory(self, id: str) -> str:
        """The directory of a layer that can be worked with.

        Raises:
            FileNotFoundError: there is none, or it has no content.
            NotADirectoryError: of our own layers, one that is a link: it would have us write wherever that leads.
            NotSupported: its content lies in an additional layer store.
        """
        found = self.find(id)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "the layer has no directory", f"{self.home}/{id}")
        if os.path.islink(found) and os.path.dirname(found) in self.own:
            raise NotADirectoryError(errno.ENOTDIR, f'layer "{id}" is not a directory', found)
        content.content_of(found)
        return found

    def ids(self) -> list[str]:
        return _ids(self.home)

    def make(
        self,
        id: str,
        parent: str | None,
        *,
        writable: bool,
        owner: tuple[int, int] | None,
        force_mask: int | None = None,
        prepare: Callable[[str], None] | None = None,
    ) -> str:
        """Make the directory of a new layer; nothing of it stays if that fails.

        `parent` is a layer's directory. `owner` is the mapped root; None: as the parent has it. `prepare` is called
        with the directory while it is empty.
        """
        mode = _NEW_ROOT
        lower = None
        if parent is not None:
            found, mode = content.owner_and_mode(f"{parent}/diff", force_mask is not None)
            owner = owner or found
            # Not the sticky or setgid bits, and never writable for others: so it comes out, with the usual umask,
            # where the peers' umask has its say.
            mode &= 0o755
            lower = ":".join([f"l/{self.link_of(parent)}", *self.entries(parent)])
        owner = owner or (0, 0)
        home = self.home if writable else self.image_home or self.home
        directory = f"{home}/{id}"
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            raise DuplicateID(f'layer "{id}" lies at {directory} already', id=id, path=directory) from None
        link = None
        try:
            content.settle(directory, 0o700, owner)
            if prepare is not None:
                prepare(directory)
            content.make(f"{directory}/diff", mode, owner, force_mask)
            link = links.make(home, id)
            _write_new(f"{directory}/link", link)
            for name in ("work", "merged") if lower else ("work", "merged", "empty"):
                os.mkdir(f"{directory}/{name}", 0o700)
                content.settle(f"{directory}/{name}", 0o700, owner)
            if lower:
                _write_new(f"{directory}/lower", lower)
        except BaseException as error:
            _undo(error, directory, f"{home}/l/{link}" if link else None)
            raise
        return directory

    # --- names ------------------------------------------------------------------------------------------------

    def _recover_links(self) -> None:
        for home in self.own:
            links.recover(home, _ids(home))

    def link_of(self, directory: str) -> str:
        """The short name of a layer, which is made good if it got lost."""
        link = links.read(directory)
        if link is None:
            self._recover_links()
            link = links.read(directory)
            if link is None:
                raise FileNotFoundError(errno.ENOENT, "the layer has no short name", f"{directory}/link")
        return link

    def entries(self, directory: str) -> list[str]:
        """The entries of a layer's `lower` file: `l/<short name>` each."""
        try:
            text = files.read(f"{directory}/lower", limit=_LOWER_LIMIT).decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return []
        entries = text.strip().split(":")
        for entry in entries:
            if entry[:2] != "l/" or not is_component(entry[2:]):
                path = f"{directory}/lower"
                raise BadRecords(f"{path} lists {entry[:80]!r}: wanted l/<short name>", path=path)
        return entries

    def lowers(self, directory: str) -> list[Content]:
        """The contents of the layers below one, nearest first, without older ones.

        Raises:
            LimitExceeded: more than the kernel takes.
            FileNotFoundError: one of them is nowhere, and was no lost short name either.
            NotSupported: as `directory`.
        """
        entries = self.entries(directory)
        if len(entries) > MAX_DEPTH:
            raise LimitExceeded(
                f"the layer at {directory} has {len(entries)} below it: at most {MAX_DEPTH} can be mounted",
                peer="max depth exceeded",
                depth=len(entries),
            )
        return [content.content_of(self._resolve(entry[2:]), entry[2:]) for entry in entries]

    def below(self, directory: str) -> list[Content]:
        """All that is below a layer's own content, nearest first. Raises as `lowers` does."""
        found = content.content_of(directory).older()
        for lower in self.lowers(directory):
            found += [lower, *lower.older()]
        return found

    def first_lower(self, directory: str) -> str | None:
        """The directory of the layer right below one."""
        entries = self.entries(directory)
        return self._resolve(entries[0][2:]) if entries else None

    def _resolve(self, link: str) -> str:
        """The directory of the layer with a short name."""
        found = self._look_for(link)
        if found is None:
            self._recover_links()
            found = self._look_for(link)
        if found is None:
            raise FileNotFoundError(
                errno.ENOENT, "no layer has this short name, in no store", f"{self.home}/l/{link}"
            )
        return found

    def _look_for(self, link: str) -> str | None:
        for home in self.homes:
            try:
                target = os.readlink(f"{home}/l/{link}")
            except FileNotFoundError:
                continue
            id = links.id_of(target)
            if id is None:
                path = f"{home}/l/{link}"
                raise BadRecords(f"{path} leads to {target!r}: wanted ../<id>/diff", path=path)
            return f"{home}/{id}"
        return None


def _ids(home: str) -> list[str]:
    with os.scandir(home) as entries:
        return [
            entry.name
            for entry in entries
            if entry.name not in RESERVED and entry.is_dir(follow_symlinks=False)
        ]


def _write_new(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        files.write_all(fd, os.fsencode(text))
        os.fchmod(fd, 0o644)
    finally:
        os.close(fd)


def _undo(error: BaseException, directory: str, link: str | None) -> None:
    try:
        if link is not None:
            os.unlink(link)
        files.remove_tree(directory)
    except OSError as left:
        error.add_note(f"what was made of it could not be removed: {left}")
