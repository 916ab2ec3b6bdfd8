"""Creating layers, images and containers (`spec/cli.md` 5)."""

from __future__ import annotations

from orlop.dropin.data import opened
from orlop.dropin.names import given_metadata
from orlop.dropin.streams import Refusal
from orlop.dropin.text import quote, system_text
from orlop.errors import InvalidDigest
from orlop.model.idmap import IDMap, IDMappings, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from orlop.dropin.flags import Values
    from orlop.dropin.streams import Call
    from orlop.model.container import Container
    from orlop.model.image import Image
    from orlop.model.layer import Layer


def create_layer(call: Call) -> int:
    return _told(call, call.store.layers.create(**_wanted(call)))


def import_layer(call: Call) -> int:
    with opened(call.values.text("file")) as blob:
        layer = call.store.layers.put(blob, **_wanted(call))
    return _told(call, layer)


def _wanted(call: Call) -> dict[str, Any]:
    """How a layer is to be, whatever it is filled with."""
    values = call.values
    return {
        "id": values.text("id") or None,
        "parent": _optional(call.args),
        "names": values.list("name"),
        "label": values.text("label"),
        "writable": not values.on("readonly"),
        "mappings": _mappings(values),
        "host_uids": values.on("hostuidmap"),
        "host_gids": values.on("hostgidmap"),
    }


def create_storage_layer(call: Call) -> int:
    values = call.values
    try:
        id = call.store.create_storage_layer(
            id=values.text("id") or None,
            parent=_optional(call.args),
            label=values.text("label"),
            writable=not values.on("readonly"),
            mappings=_mappings(values),
        )
    except FileNotFoundError as error:  # the parent, which is looked for by the driver alone
        raise Refusal(system_text(error, "Stat")) from error
    if call.json:
        call.answer(id)
    else:
        call.say(id)
    return 0


def create_image(call: Call) -> int:
    """Names that came along from an additional store's image of the same ID are not told."""
    values = call.values
    metadata = given_metadata(call)
    try:
        image = call.store.images.create(
            id=values.text("id") or None,
            names=values.list("name"),
            layer=_optional(call.args),
            metadata=metadata,
            digest=values.text("digest") or None,
        )
    except InvalidDigest as error:
        shown = quote(values.text("digest"))
        raise Refusal(
            f"validating digests for new image: validating image digest {shown}: {error.peer}"
        ) from error
    given = list(dict.fromkeys(values.list("name")))
    return _told(call, type(image)(image.document() | {"names": given}))


def create_container(call: Call) -> int:
    values = call.values
    metadata = given_metadata(call)
    container = call.store.containers.create(
        image=_optional(call.args),
        id=values.text("id") or None,
        names=values.list("name"),
        metadata=metadata,
        volatile=values.on("volatile"),
        mappings=_mappings(values),
        host_uids=values.on("hostuidmap"),
        host_gids=values.on("hostgidmap"),
    )
    return _told(call, container)


def _told(call: Call, made: Layer | Image | Container) -> int:
    """The bare id when there are no names: scripts take the whole output for the id then."""
    if call.json:
        from orlop.formats.records import json_of

        call.say(json_of(made))
    else:
        call.say(made.id)
        for name in made.names:
            call.say(f"\t{name}")
    return 0


def _optional(args: list[str]) -> str | None:
    """The only argument; an empty one is none at all."""
    return args[0] or None if args else None


def _mappings(values: Values) -> IDMappings:
    """What the flags for maps ask for (`spec/cli.md` 5.1).

    Raises:
        Refusal: contradicting flags. InvalidMappings, ConfigError: malformed, or nothing set aside for the user.
    """
    given: dict[str, Iterable[IDMap]] = {}
    for kind, host in (("uid", "hostuidmap"), ("gid", "hostgidmap")):
        if values.on(host) and (values.text(f"{kind}map") or values.text(f"sub{kind}map")):
            raise Refusal(f"host {kind} map specified along with {kind.upper()} mapping")
        given[kind] = ()
    user, group = values.text("subuidmap"), values.text("subgidmap")
    if user or group:
        from orlop.system import subids

        aside = subids.mappings_of(user or group, group or user)
        given = {"uid": aside.uids, "gid": aside.gids}
    return IDMappings(
        (*given["uid"], *parse(values.text("uidmap"), setting="uid")),
        (*given["gid"], *parse(values.text("gidmap"), setting="gid")),
    )
