"""Small layer tars for tests that are not about tars."""

import io
import tarfile
from collections.abc import Callable
from typing import Any

import orlop

Open = Callable[[], orlop.Store]
"""Opens the store of a test; each call is one more program on the same roots."""


def tar(*members: str | tuple[str, bytes]) -> io.BytesIO:
    """A layer: a name ending in / is a directory, a pair is a file with content, any other name an empty file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member in members:
            name, data = member if isinstance(member, tuple) else (member, b"")
            info = tarfile.TarInfo(name.rstrip("/"))
            info.mtime, info.mode, info.size = 1_600_000_000, 0o644, len(data)
            if name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(info, io.BytesIO(data))
    out.seek(0)
    return out


def archive(*members: dict[str, Any] | str, owner: int = 0) -> io.BytesIO:
    """`{"name": ..., fields of TarInfo, data}`; a name alone is a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member in members:
            fields = {"name": member, "type": tarfile.DIRTYPE, "mode": 0o755}
            if isinstance(member, dict):
                fields = {"mode": 0o644, **member}
            data = fields.pop("data", b"")
            info = tarfile.TarInfo(fields.pop("name"))
            info.uid = info.gid = owner
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    out.seek(0)
    return out


def link(name: str, to: str) -> dict[str, Any]:
    return {"name": name, "type": tarfile.SYMTYPE, "linkname": to}
