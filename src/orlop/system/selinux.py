"""SELinux, as far as storage needs it: is it on, and how is a file of containers labelled.

Only the label of a freshly made layer directory is set here; labels of mounts are mount options, and processes are
labelled by whoever starts them.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_ATTRIBUTE = "security.selinux"

_CONTEXTS = ("/usr/share/containers/selinux/contexts", "/etc/selinux/{policy}/contexts/lxc_contexts")
"""Where the policy says how containers are labelled; the first that there is counts."""


def is_enabled() -> bool:
    """Whether the kernel enforces or at least reports a policy."""
    return os.path.exists("/sys/fs/selinux/enforce")


def container_file_label(level: str = "s0", *, root: str = "/") -> str:
    """The label of files that containers may use, with the given level. Empty if the policy names none.

    `s0` without categories is what every container may read: a layer is shared, so it has no container's own.
    `root` is where the policy's files are looked for.
    """
    policy = _setting(_lines(os.path.join(root, "etc/selinux/config")), "SELINUXTYPE")
    for place in _CONTEXTS:
        lines = _lines(os.path.join(root, place.format(policy=policy).lstrip("/")))
        label = _setting(lines, "file").strip('"')
        parts = label.split(":", 3)
        if len(parts) >= 3:
            return ":".join([*parts[:3], level])
    return ""


def set_label(path: str, label: str) -> None:
    """Label the file or directory itself, not what a symlink names. `OSError` if the policy or kernel refuses."""
    os.setxattr(path, _ATTRIBUTE, label.encode() + b"\0", follow_symlinks=False)


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20).splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []


def _setting(lines: Iterable[str], name: str) -> str:
    """The value of `name = value`; the last one counts, comments do not."""
    found = ""
    for line in lines:
        key, equals, value = line.strip().partition("=")
        if equals and key.strip() == name:
            found = value.strip()
    return found
