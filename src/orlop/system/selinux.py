"""SELinux, as far as storage needs it: is it on, and how is a file of containers labelled.

Only the label of a freshly made layer directory is set here; labels of mounts are mount options, and processes are
labelled by whoever starts them, as the container's record says.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_ATTRIBUTE = "security.selinux"

_CATEGORIES = 1024

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
    parts = _context("file", root)
    return ":".join([*parts[:3], level]) if parts else ""


def container_labels(
    options: Iterable[str], taken: Iterable[str], *, root: str = "/", choose: Callable[[], int] | None = None
) -> tuple[str, str]:
    """Labels of a new container: that of its processes, that of its files. Both empty if the policy names none.

    Args:
        options: `disable`, or `user:`, `role:`, `type:`, `level:` with a value for the process (user and level also
            for the files), or `filetype:` for the files.
        taken: file labels that other containers have; theirs are not given out again.
        root: where the policy's files are looked for.
        choose: a number from 0 to 1023 each time it is called; random if not given.

    Raises:
        ValueError: an option that is none of these.
    """
    process, files = (_context(name, root) for name in ("process", "file"))
    if not process or not files:
        return "", ""
    own = {"level": _free_level(process[3], {label.split(":", 3)[-1] for label in taken}, choose)}
    file_type = ""
    for option in options:
        key, colon, value = option.partition(":")
        if option == "disable":
            return "", ":".join([*files[:3], files[3].partition(":")[0]])
        if not colon or key not in ("user", "role", "type", "level", "filetype"):
            raise ValueError(
                "SELinux option: wanted `disable`, or one of user, role, type, level and filetype with a value; "
                f"found {option!r}"
            )
        if key == "filetype":
            file_type = value
        else:
            own[key] = value
    user, role, type, _ = process
    return (
        ":".join([own.get("user", user), own.get("role", role), own.get("type", type), own["level"]]),
        ":".join([own.get("user", files[0]), files[1], file_type or files[2], own["level"]]),
    )


def _context(name: str, root: str) -> list[str]:
    """The four parts of a label that the policy has for containers; empty if it has none."""
    policy = _setting(_lines(os.path.join(root, "etc/selinux/config")), "SELINUXTYPE")
    for place in _CONTEXTS:
        lines = _lines(os.path.join(root, place.format(policy=policy).lstrip("/")))
        parts = _setting(lines, name).strip('"').split(":", 3)
        if len(parts) >= 3:
            return [*parts, "s0"][:4]
    return []


def _free_level(level: str, taken: set[str], choose: Callable[[], int] | None) -> str:
    """The sensitivity of `level` with two categories that nobody else has both of."""
    choose = choose or (lambda: int.from_bytes(os.urandom(2), "little") % _CATEGORIES)
    while True:
        low, high = sorted((choose(), choose()))
        found = f"{level.partition(':')[0].partition('-')[0]}:c{low},c{high}"
        if low != high and found not in taken:
            return found


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
