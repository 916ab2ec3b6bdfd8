"""The verbs of `Store` that take a layer, an image or a container, whichever a reference names (`spec/records.md` 9).

Layers are looked through first, then images, then containers.
"""

from __future__ import annotations

from orlop.errors import LayerUnknown, NotAnID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, TypeVar

    from orlop.model.snapshot import Snapshot
    from orlop.store.collection import Collection
    from orlop.store.containers import Containers
    from orlop.store.digestlock import DigestLock
    from orlop.store.engine import Engine
    from orlop.store.images import Images
    from orlop.store.layers import Layers

    C = TypeVar("C", bound=Collection[Any])


class References:
    """Part of `Store`."""

    _engine: Engine
    _collections: dict[type, Any]

    # Made, and imported, when first asked for: most commands want one of them.

    @property
    def layers(self) -> Layers:
        """The layers (`store/layers`)."""
        from orlop.store.layers import Layers

        return self._collection(Layers)

    @property
    def images(self) -> Images:
        """The images (`store/images`)."""
        from orlop.store.images import Images

        return self._collection(Images)

    @property
    def containers(self) -> Containers:
        """The containers (`store/containers`)."""
        from orlop.store.containers import Containers

        return self._collection(Containers)

    def lookup(self, ref: str) -> str:
        """The full id of a layer, image or container.

        Raises:
            LayerUnknown: nothing is called that.
        """
        return str(self._record(ref).id)

    def exists(self, ref: str) -> bool:
        """Whether a layer, an image or a container has this id, name or unique prefix of an id."""
        return any(ref in kind for kind in self._kinds())

    def names(self, ref: str) -> tuple[str, ...]:
        """The names of a layer, image or container, the one given last first."""
        return tuple(self._record(ref).names)

    def set_names(self, ref: str, names: Iterable[str]) -> tuple[str, ...]:
        """Give a layer, image or container exactly these names, taking them from others; those it has now."""
        return self._rename("set_names", ref, names)

    def add_names(self, ref: str, names: Iterable[str]) -> tuple[str, ...]:
        """Put names in front of those of a layer, image or container, taking them from others; those it has now."""
        return self._rename("add_names", ref, names)

    def remove_names(self, ref: str, names: Iterable[str]) -> tuple[str, ...]:
        """Take names off a layer, image or container; absent ones are fine. The names it has now."""
        return self._rename("remove_names", ref, names)

    def metadata(self, ref: str) -> str:
        """The caller's own text of a layer, image or container. NotAnID if there is nothing of that name."""
        for kind in self._kinds():
            record = kind.get(ref)
            if record is not None:
                metadata: str = record.metadata
                return metadata
        raise _no_id(ref)

    def set_metadata(self, ref: str, metadata: str) -> None:
        """Replace the caller's own text of a layer, image or container. NotAnID if there is none of that name."""
        for kind in self._kinds():
            try:
                kind.set_metadata(ref, metadata)
                return
            except kind._unknown:
                continue
        raise _no_id(ref)

    def snapshot(self, *, layers: bool = True, images: bool = True, containers: bool = True) -> Snapshot:
        """All records of the kinds asked for, as they were at one moment: an `orlop.Snapshot`."""
        from orlop.model.snapshot import Snapshot
        from orlop.store.tables import READ

        modes = [READ if wanted else None for wanted in (layers, images, containers)]
        with self._engine.open(layers=modes[0], images=modes[1], containers=modes[2]) as tables:
            return Snapshot(
                self.layers._values(tables) if layers else (),
                self.images._values(tables) if images else (),
                self.containers._values(tables) if containers else (),
            )

    def digest_lock(self, digest: str, *, shared: bool = False, timeout: float | None = None) -> DigestLock:
        """A block that excludes other holders of the lock of this digest, such as other pulls of one blob.

        Args:
            digest: any valid digest; nothing needs to have it.
            shared: exclude exclusive holders only.
            timeout: seconds to wait for it before `LockTimeout`; that of the store if not given.

        Raises:
            InvalidDigest.
        """
        from orlop.store.digestlock import DigestLock

        return DigestLock(self._engine, digest, shared=shared, timeout=timeout)

    def _collection(self, kind: type[C]) -> C:
        found = self._collections.get(kind)
        if found is None:
            found = self._collections[kind] = kind(self._engine)
        return found

    def _kinds(self) -> tuple[Collection[Any], ...]:
        return (self.layers, self.images, self.containers)

    def _record(self, ref: str) -> Any:
        for kind in self._kinds():
            record = kind.get(ref)
            if record is not None:
                return record
        raise _nothing(ref)

    def _rename(self, operation: str, ref: str, names: Iterable[str]) -> tuple[str, ...]:
        wanted = list(names) if not isinstance(names, str) else names
        for kind in self._kinds():
            try:
                result: tuple[str, ...] = getattr(kind, operation)(ref, wanted)
                return result
            except kind._unknown:
                continue
        raise _nothing(ref)


def _nothing(ref: str) -> LayerUnknown:
    return LayerUnknown(f"no layer, image or container has the id, name or unique prefix {ref!r}", ref=ref)


def _no_id(ref: str) -> NotAnID:
    return NotAnID(f"no layer, image or container has the id, name or unique prefix {ref!r}", ref=ref)
