"""What can be asked of a store, at random: a verb of `machine.programs`, and its arguments.

Refused calls are as frequent as those that work, as ids and names come from small sets.
"""

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from machine.model import Model
from machine.tables import BLOBS, KINDS, TARS, sha256


@dataclass(frozen=True)
class Nth:
    """The id of a record that is there, whichever that is by then; or its beginning."""

    kind: str
    number: int
    cut: bool

    def ref(self, model: Model) -> str:
        ids = [document["id"] for document in model.listed(self.kind)]
        id = str(ids[self.number % len(ids)]) if ids else "none"
        return id[:12] if self.cut else id


Op = tuple[str, dict[str, Any]]

GOOD_IDS = ["p", "pq", "q", "r" * 64, "r" * 63 + "s"]  # no beginnings of ids that are drawn
GOOD_KEYS = ["manifest", "manifest-sha256:1", "sha256:config", "a", "A", "é"]
NAME = st.sampled_from(["x", "y", "z", "pq", "", "é<&>", "example.org/x:1"])
NAMES = st.lists(NAME, max_size=3)
TEXT = st.sampled_from(["", "text", '{"a":"<é>"}'])
KEY = st.sampled_from([*GOOD_KEYS, "", "..", "userdata"])
ITEM = st.sampled_from([b"", b"one", b"two"])
FLAGS = st.sampled_from([None, None, {"of": "somebody", "n": 1.5}])
DIGEST = st.sampled_from([sha256(b"one"), sha256(b"two"), *map(sha256, (*TARS.values(), *BLOBS.values()))])


def nth(*kinds: str) -> st.SearchStrategy[Any]:
    return st.builds(Nth, st.sampled_from(kinds), st.integers(0, 4), st.booleans())


def refs(*kinds: str) -> st.SearchStrategy[Any]:
    there = nth(*kinds)
    return there | there | there | there | NAME | st.sampled_from(["p", "q", "r", "r" * 63, "none"])


def op(verb: str, **given: st.SearchStrategy[Any]) -> st.SearchStrategy[Op]:
    return st.tuples(st.just(verb), st.fixed_dictionaries(given))


def of_a_kind(verb: str, *kinds: str, **given: st.SearchStrategy[Any]) -> st.SearchStrategy[Op]:
    each = [op(verb, kind=st.just(k), ref=refs(*(KINDS if k == "any" else (k,))), **given) for k in kinds]
    return st.one_of(each)


def makes(*, well: bool) -> st.SearchStrategy[Op]:
    """Records are made; `well`: of arguments that are good as such."""
    maybe = st.none() if well else st.sampled_from(["tmp", "../a", "-"])
    new = {
        "id": st.none() | st.sampled_from(GOOD_IDS) | maybe,
        "metadata": TEXT,
        "names": NAMES | st.just([]),
        "data": st.just({}) | st.dictionaries(st.sampled_from(GOOD_KEYS) if well else KEY, ITEM, max_size=2),
        "flags": FLAGS,
    }
    layer, image = (nth("layers"), nth("images")) if well else (refs("layers"), refs("images"))
    digest = st.sampled_from([None, None, sha256(b"one"), *([] if well else ["sha256:short"])])
    blob = st.sampled_from(sorted(TARS if well else BLOBS))
    layer_options = {"volatile": st.booleans(), "writable": st.booleans(), "parent": st.none() | layer}
    box = {"volatile": st.booleans(), "maps": st.booleans(), "layer": st.none() | st.none() | new["id"]}
    return (
        op("layers.create", **new, **layer_options, template=st.none() | st.none() | layer)
        | op("layers.put", **new, **layer_options, blob=blob)
        | op("images.create", **new, layer=st.none() | layer | layer, digest=digest, names_history=NAMES)
        | op("containers.create", **new, **box, image=st.none() | image | image)
    )


RENAMES = of_a_kind("name", *KINDS, "any", operation=st.sampled_from(["set", "add", "remove"]), names=NAMES)
CHANGES = of_a_kind("set_metadata", *KINDS, "any", metadata=TEXT) | of_a_kind(
    "data.put", *KINDS, key=KEY, data=ITEM
)
MOUNTS = (
    op("mount", ref=refs("layers", "containers"))
    | op("mount", ref=refs("layers", "containers"))
    | op("unmount", ref=refs("layers", "containers"), force=st.booleans())
    | op("mount_count", ref=refs("layers", "containers"))
)
DELETES = of_a_kind("delete", *KINDS, *KINDS, "any")
ASKS = (
    of_a_kind("look", *KINDS, "any")
    | of_a_kind("has", *KINDS, "any")
    | of_a_kind("directory", "images", "containers")
    | op("diff", ref=refs("layers"))
    | op("images.dry_run", ref=refs("images"))
)
FINDS = op(
    "by",
    what=st.sampled_from(["images.by_digest", "layers.by_diff_digest", "layers.by_compressed_digest"]),
    value=DIGEST,
) | op("by", what=st.sampled_from(["images.by_top_layer", "containers.by_layer"]), value=refs("layers"))
# The reference is looked up first, then what it has is read: not where somebody else is at work.
READS = of_a_kind("data.get", *KINDS, key=KEY) | of_a_kind("data.keys", *KINDS)
# A plan is made, and carried out with the locks taken anew: nor these.
PLANS = op("plan_delete", refs=st.lists(refs(*KINDS), min_size=1, max_size=3)) | op("gc")
ENDS = op("wipe") | op("shutdown", force=st.booleans())
AT_ONCE = makes(well=True) | RENAMES | CHANGES | MOUNTS | DELETES | ASKS | FINDS

# What is there before a store is tried; its ids and names are of the same few.
BEFORE: list[Op] = [
    ("layers.put", {"id": "p", "names": ["x"], "blob": "plain", "data": {"a": b"one"}}),
    ("layers.put", {"id": "l1", "parent": "p", "names": ["base"], "blob": "gzip"}),
    ("layers.create", {"id": "r" * 64, "parent": "p", "names": ["pq", "z"], "volatile": True}),
    (
        "images.create",
        {"id": "p", "layer": "l1", "names": ["x", "other"], "data": {"manifest": b"two", "a": b""}},
    ),
    (
        "images.create",
        {"id": "i1", "layer": "p", "names": ["y"], "metadata": "text", "digest": sha256(b"one")},
    ),
    ("images.create", {"id": "i2", "names": ["foreign"], "names_history": ["z"]}),
    (
        "containers.create",
        {"id": "q", "image": "i1", "names": ["x", "y"], "layer": "l2", "data": {"a": b"two"}},
    ),
    ("containers.create", {"id": "c1", "image": "p", "names": ["z"], "layer": "l3", "volatile": True}),
]
