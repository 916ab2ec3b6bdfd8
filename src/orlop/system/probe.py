"""What this process is like. Nothing here changes anything."""

from __future__ import annotations

import os

CAP_SYS_ADMIN = 21


def single_threaded() -> bool:
    """Whether this process has one thread only, those of libraries included: then it may fork, and it is alone.

    False if it cannot be found out (no /proc).
    """
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


def has_capability(number: int) -> bool | None:
    """Whether a capability is effective; None if it cannot be found out."""
    try:
        with open("/proc/self/status", "rb") as status:
            lines = status.read().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(b"CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return None


def in_initial_user_namespace() -> bool:
    """Whether every id is mapped here, as it is in the namespace that the system starts with."""
    try:
        with open("/proc/self/uid_map", "rb") as map:
            return b"4294967295" in map.read()
    except OSError:
        return True  # a kernel without user namespaces, or no /proc
