"""Variables that are asked for even where no file is read; apart from `load` because it imports next to nothing."""

from __future__ import annotations

import os


def durability() -> str | None:
    """ORLOP_DURABILITY: "full" or "none"; None if it is not set."""
    return os.environ.get("ORLOP_DURABILITY") or None


def names_a_file() -> bool:
    """Whether CONTAINERS_STORAGE_CONF names a file, which then has to be usable even if nothing of it is needed."""
    return "CONTAINERS_STORAGE_CONF" in os.environ


def is_rootless() -> bool:
    """Whether this process lacks the powers of the machine's root (`spec/config.md` 2)."""
    from orlop.system import probe

    told = os.environ.get("_CONTAINERS_ROOTLESS_UID") or os.environ.get("_CONTAINERS_USERNS_CONFIGURED")
    if os.geteuid() == 0 and not told and probe.has_capability(probe.CAP_SYS_ADMIN):
        # The usual root, who need not import what knows of namespaces.
        return not probe.in_initial_user_namespace()
    from orlop.system import userns

    return userns.identity(os.environ).rootless


def may_shift() -> bool:
    """Whether ids may be mapped while mounting: _CONTAINERS_OVERLAY_DISABLE_IDMAP=yes says no."""
    return os.environ.get("_CONTAINERS_OVERLAY_DISABLE_IDMAP") != "yes"


def login_name() -> str:
    """Whose subordinate ids a rootless process has (`spec/userns.md` 4.1): USER, or the name of whoever started it.

    "" if that is nobody known.
    """
    told = os.environ.get("USER")
    if told:
        return told
    from orlop.errors import StorageError
    from orlop.system import accounts, userns

    uid = os.geteuid() or userns.identity(os.environ).uid
    try:
        return accounts.user(str(uid)).name
    except StorageError:
        return ""
