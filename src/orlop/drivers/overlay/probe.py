"""What overlay can do on this kernel and this file system, found out by trying (`spec/drivers.md` 4.3, 4.4).

Answers are kept as files in the run home, so they are gone after a reboot, which may bring another kernel. Peers
write and read the same files.

    <run home>/<feature>-true  or  <feature>-false        the content is an explanation, or nothing

Rule 1: A trial happens in a directory of its own in the home, and leaves neither it nor a mount, whatever happened.
Rule 2: An answer lasts until the next boot, for all programs. What says nothing about the kernel (a full disk, no
        descriptor left) is an error, and no answer.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.drivers.overlay.layout import TEMP_ROOT
from orlop.errors import DriverNotSupported, IncompatibleFilesystem
from orlop.model.idmap import IDMap, IDMappings
from orlop.system import files, mounts, overlayfs, selinux, userns
from orlop.system.ownlock import OwnedLock, own

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self, TypeVar

    from orlop.errors import NotSupported

    _Refusal = TypeVar("_Refusal", DriverNotSupported, IncompatibleFilesystem)

_SLOW = "Not using native diff for overlay, this may cause degraded performance for building images: "
_TEXT_LIMIT = 1 << 16
_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)


class Features:
    """The answers for one home. `mountopt` are the configured mount options; `rootless`: by way of `userxattr`."""

    def __init__(self, home: str, run_home: str, mountopt: str, *, rootless: bool) -> None:
        self._home = home
        self._run_home = run_home
        self._mountopt = mountopt
        self._rootless = rootless
        self._known: dict[str, tuple[bool, str]] = {}

    # --- the questions ----------------------------------------------------------------------------------------

    def require_overlay(self) -> None:
        """Make sure that overlay works at all.

        Raises:
            DriverNotSupported, IncompatibleFilesystem: with what was tried.
        """
        known = self._answer("overlay")
        if known is None:
            try:
                self._try_overlay()
            except (DriverNotSupported, IncompatibleFilesystem) as error:
                self._keep("overlay", False, f"kernel does not support overlay fs: {error.peer}")
                raise
            self._keep("overlay", True)
        elif not known[0]:
            raise DriverNotSupported(
                f"overlay did not work at {self._home} when it was tried after boot: {known[1]}",
                peer=known[1] or DriverNotSupported.peer,
                home=self._home,
            )

    def metacopy(self) -> bool:
        """Whether, with the configured options, the kernel copies up the attributes of a file without its data."""
        return self._asked(f"metacopy({self._mountopt})", self._try_metacopy)

    def native_diff(self) -> bool:
        """Whether an upper directory tells exactly what was changed."""
        return self._asked(f"native-diff({self._mountopt})", self._try_native_diff)

    def volatile(self) -> bool:
        """Whether the mount option `volatile` works. Only a yes is kept."""
        known = self._answer("volatile")
        if known is not None:
            return known[0]
        works = self._try_volatile()
        if works:
            self._keep("volatile", True)
        return works

    def idmapped_lowers(self) -> bool:
        """Whether lower directories may lie on id-mapped mounts."""
        return os.geteuid() == 0 and self._asked("idmapped-lower-dir", self._try_idmapped)

    def data_only_layers(self) -> bool:
        """Whether layers may hold data that is seen through others only."""
        return self._asked("dataonly-layers", self._try_data_only)

    # --- kept answers -----------------------------------------------------------------------------------------

    def _asked(self, feature: str, attempt: Callable[[], tuple[bool, str]]) -> bool:
        known = self._answer(feature)
        if known is None:
            known = attempt()
            self._keep(feature, *known)
        return known[0]

    def _answer(self, feature: str) -> tuple[bool, str] | None:
        if feature not in self._known:
            for answer in (True, False):
                try:
                    text = files.read(self._place(feature, answer), limit=_TEXT_LIMIT)
                except OSError:
                    continue  # ask the kernel again
                self._known[feature] = answer, text.decode("utf-8", "replace")
                break
        return self._known.get(feature)

    def _keep(self, feature: str, answer: bool, text: str = "") -> None:
        self._known[feature] = answer, text
        # Mount options are part of the name. What cannot be a name is asked again by each process.
        if "/" not in feature and len(os.fsencode(feature)) < 240:
            files.write_atomic(self._place(feature, answer), text.encode(), mode=0o644, durable=False)

    def _place(self, feature: str, answer: bool) -> str:
        return f"{self._run_home}/{feature}-{'true' if answer else 'false'}"

    # --- trials -----------------------------------------------------------------------------------------------

    def _trial(self, *directories: str, options: bool = True) -> _Trial:
        words = [word for word in self._mountopt.split(",") if options and word]
        if self._rootless:
            words.append("userxattr")
        return _Trial(self._home, words, directories)

    def _attribute(self, name: str) -> str:
        return f"{'user' if self._rootless else 'trusted'}.overlay.{name}"

    def _try_overlay(self) -> None:
        label = selinux.container_file_label() if selinux.is_enabled() else ""
        with self._trial("lower1", "lower2/subdir", "upper", options=False) as trial:
            if not _names_tell_types(trial.path("lower2/subdir")):
                raise self._unsupported(
                    "the backing file system is formatted without d_type support", DriverNotSupported
                )
            try:
                os.mknod(trial.path("upper/whiteout"), stat.S_IFCHR, 0)
                trial.mount("lower1", "lower2", upper="upper", label=label)
            except OSError as error:
                _raise_trouble(error)
                raise self._why_not(error, label) from error
            try:
                os.rmdir(trial.path("merged/subdir"))
            except OSError as error:
                _raise_trouble(error)
                raise self._unsupported(
                    f"removing a directory failed: {error.strerror}", IncompatibleFilesystem
                ) from error

    def _why_not(self, error: OSError, label: str) -> NotSupported:
        try:
            with self._trial("lower1", "upper", options=False) as trial:
                trial.mount("lower1", upper="upper", label=label)
        except OSError as problem:
            _raise_trouble(problem)
            return self._unsupported(str(error), IncompatibleFilesystem)
        return self._unsupported(
            "kernel too old to provide multiple lowers feature for overlay", DriverNotSupported
        )

    def _unsupported(self, why: str, kind: type[_Refusal]) -> _Refusal:
        return kind(
            f"overlay does not work at {self._home}: {why}", peer=f"{why}: {kind.peer}", home=self._home
        )

    def _try_metacopy(self) -> tuple[bool, str]:
        with self._trial("lower", "upper") as trial:
            path = trial.path("lower/file")
            files.write_atomic(path, b"x", durable=False)
            try:
                trial.mount("lower", upper="upper")
            except OSError as error:
                if error.errno == errno.EINVAL:
                    return False, ""
                raise
            os.chmod(trial.path("merged/file"), 0o644)
            return _attribute_of(trial.path("upper/file"), self._attribute("metacopy")) is not None, ""

    def _try_native_diff(self) -> tuple[bool, str]:
        try:
            why = self._why_not_native()
        except OSError as error:
            _raise_trouble(error)
            why = str(error)
        return not why, _SLOW + why if why else ""

    def _why_not_native(self) -> str:
        opaque, redirect = self._attribute("opaque"), self._attribute("redirect")
        with self._trial("lower1/d", "lower1/old", "lower2/d", "upper") as trial:
            os.setxattr(trial.path("lower2/d"), opaque, b"y")
            trial.mount("lower2", "lower1", upper="upper")
            files.write_atomic(trial.path("merged/d/file"), b"x", durable=False)
            if _attribute_of(trial.path("upper/d"), opaque) == b"y":
                return "opaque flag erroneously copied up"
            try:
                os.rename(trial.path("merged/old"), trial.path("merged/new"))
            except OSError as error:
                if error.errno == errno.EXDEV:
                    return ""  # whoever renames a directory copies it: nothing in the upper points elsewhere
                raise
            if _attribute_of(trial.path("upper/new"), redirect) == b"old":
                return "kernel has CONFIG_OVERLAY_FS_REDIRECT_DIR enabled"
            return ""

    def _try_volatile(self) -> bool:
        try:
            with self._trial("lower", "upper", options=False) as trial:
                trial.mount("lower", upper="upper", more=("volatile",))
                return True
        except OSError as error:
            _raise_trouble(error)
            return False

    def _try_data_only(self) -> tuple[bool, str]:
        try:
            with self._trial("lower", "data", "upper", options=False) as trial:
                trial.mount("lower", data_only="data", upper="upper", more=("metacopy=on",))
                return True, ""
        except OSError as error:
            _raise_trouble(error)
            return False, ""

    def _try_idmapped(self) -> tuple[bool, str]:
        from orlop.system import newmount

        one = [IDMap(0, 0, 1)]
        try:
            with (
                self._trial("lower", "upper", options=False) as trial,
                userns.namespace_for(IDMappings(one, one)) as names,
            ):
                mapped = newmount.idmapped(trial.path("lower"), names.fd)
                try:
                    trial.mount(mapped, upper="upper", detached=[(mapped, trial.path("mapped"))])
                finally:
                    os.close(mapped)
                return True, ""
        except OSError as error:
            _raise_trouble(error)
            return False, ""


class _Trial:
    """A directory in the home, with more in it, and one mount on `merged`.

    It lies where set-aside layers lie, with a lock beside it: if we die, the next program that loads the layers
    finds the lock free and deletes it. Directly in the home it would be taken for a layer.
    """

    def __init__(self, home: str, words: Sequence[str], directories: Sequence[str]) -> None:
        self._home = home
        self._words = words
        self._directories = directories
        number = int.from_bytes(os.urandom(5), "big")
        self._temp_root = f"{home}/{TEMP_ROOT}"
        self._root = f"{self._temp_root}/temp-dir-{number}"
        self._lock_path = f"{self._temp_root}/lock-{number}"
        self._lock: OwnedLock | None = None

    def __enter__(self) -> Self:
        files.make_dirs(self._temp_root)
        self._lock = own(self._lock_path, exclusive_create=True)
        try:
            os.mkdir(self._root, 0o700)
            for name in (*self._directories, "work", "merged", "mapped"):
                files.make_dirs(self.path(name), 0o755)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        mounts.unmount(self.path("merged"))
        files.remove_tree(self._root)
        if self._lock is not None:
            os.unlink(self._lock_path)
            self._lock.close()
        try:
            os.rmdir(self._temp_root)  # older peers take it for a layer
        except OSError:
            pass  # somebody else has set something aside

    def path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def mount(
        self,
        *lowers: str | int,
        upper: str,
        data_only: str = "",
        label: str = "",
        more: Sequence[str] = (),
        detached: Sequence[tuple[int, str]] = (),
    ) -> None:
        flags, data = mounts.split_options(",".join((*self._words, *more)))
        overlayfs.mount(
            self.path("merged"),
            lowers=[lower if isinstance(lower, int) else self.path(lower) for lower in lowers],
            data_only=[self.path(data_only)] if data_only else (),
            upper=self.path(upper),
            work=self.path("work"),
            flags=flags,
            data=data.split(",") if data else (),
            label=label,
            home=self._home,
            detached=detached,
        )


def _raise_trouble(error: OSError) -> None:
    """Raise it again if it is of those that Rule 2 speaks of."""
    if error.errno in _TROUBLE:
        raise error


def _names_tell_types(directory: str) -> bool:
    """Whether listing a directory tells what its entries are; overlay cannot do without.

    Told from an entry that is gone: whoever must look to know its type finds nothing.
    """
    path = f"{directory}/file"
    files.write_atomic(path, b"", durable=False)
    with os.scandir(directory) as found:
        entries = list(found)
    os.unlink(path)
    return all(entry.is_file(follow_symlinks=False) for entry in entries)


def _attribute_of(path: str, name: str) -> bytes | None:
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return None
        raise
