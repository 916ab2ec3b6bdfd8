"""Records as JSON: one declaration (`model/`) checks what is read and orders what is written.

Format: `spec/records.md` sections 3 to 6. Files of records are read and written in `formats/recordfiles`.
"""

from __future__ import annotations

from orlop.formats import gojson
from orlop.model.record import NESTING_MAX, TIME, Record, is_shallow
from orlop.model.timestamp import UNSET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from orlop.model.record import Document, Shape, Stored

Columns = dict[str, list["Any"]]

BLOCK = 500  # records whose members are looked at together: what stays in a processor's cache
LOOKED_AT = ("id", "names", "flags")  # the columns that a table asks for


class Misfit(ValueError):
    """A document that does not fit its declaration; says which member, what was wanted and found."""


def fitted(kind: type[Record], value: Any) -> Document:
    """Check a decoded JSON object against the declaration and return it in normal form.

    Normal form: declared members under their own spelling (the peers match names case-insensitively), no `null`.

    Raises:
        Misfit: not an object, no id, or a member of the wrong type.
    """
    if type(value) is not dict:
        raise Misfit(f"wanted an object, found {_shown(value)}")
    fields = kind.FIELDS
    document: Document = {}
    for key, item in value.items():
        known = key if key in fields else key.lower()
        field = fields.get(known)
        if field is None:
            if not is_shallow([item]):
                raise Misfit(f'member "{key}": nested more than {NESTING_MAX} deep')
            document[key] = item
        elif item is None:
            document.pop(known, None)
        else:
            document[known] = _mended(field.shape, item, key)
    if "id" not in document:
        raise Misfit("a record without an id")
    return document


def trimmed(kind: type[Record], document: Document) -> Document:
    """A document as it will be read back: without the declared members that are left out when empty."""
    fields = kind.FIELDS
    return {
        key: item
        for key, item in document.items()
        if item or (field := fields.get(key)) is None or field.always
    }


def json_of(record: Record) -> str:
    """The compact JSON text of a value, as it stands in its file."""
    return encode(type(record), record._document)


def encode(kind: type[Record], document: Document) -> str:
    """The JSON text of one record: declared members in order without the empty ones, then the others."""
    fields = kind.FIELDS
    parts = []
    for key, field in fields.items():
        item = document.get(key)
        if item or field.always:
            parts.append(f'"{key}":{gojson.compact(_zero(field) if item is None else item)}')
    if not document.keys() <= fields.keys():
        parts += [
            f"{gojson.compact(key)}:{gojson.compact(document[key])}" for key in document if key not in fields
        ]
    return gojson.escaped("{" + ",".join(parts) + "}")


def encode_all(kind: type[Record], documents: Iterable[Document]) -> str:
    """The JSON text of several records, without the brackets of the array."""
    return ",".join([encode(kind, document) for document in documents])


def _zero(field: Stored) -> object:
    return str(UNSET) if field.shape is TIME else field.shape.json_type()


# --- one member or many -------------------------------------------------------------------------------------


def columns_of(kind: type[Record], values: list[Any]) -> Columns | None:
    """All members column by column, if every value is an object in normal form that fits; else None.

    Tried first: a column is looked at by functions in C, at a fraction of what it costs to look at each record.
    """
    everything: Columns = {}
    for start in range(0, len(values), BLOCK):
        columns = _columns(values[start : start + BLOCK])
        if columns is None or not all(_fits(kind, key, column) for key, column in columns.items()):
            return None
        for key in LOOKED_AT:
            everything.setdefault(key, []).extend(columns.get(key, ()))
    return everything if len(everything.get("id", ())) == len(values) else None


def _columns(values: list[Any]) -> Columns | None:
    if {*map(type, values)} != {dict}:
        return None
    columns = {}
    for key in set().union(*values):
        try:
            columns[key] = [value[key] for value in values]
        except KeyError:  # not all have it
            columns[key] = [value[key] for value in values if key in value]
    return columns


def _fits(kind: type[Record], key: str, values: list[Any]) -> bool:
    field = kind.FIELDS.get(key)
    if field is not None:
        return field.shape.fits(values)
    return key.lower() not in kind.FIELDS and is_shallow(values)


def _mended(shape: Shape, item: Any, key: str) -> Any:
    if shape.fits([item]):
        return item
    try:
        mended = shape.mend(item) if shape.mend is not None else None
    except (TypeError, AttributeError):
        mended = None
    if mended is None or not shape.fits([mended]):
        raise Misfit(f'member "{key}": wanted {shape.name}, found {_shown(item)}')
    return mended


def _shown(item: object) -> str:
    if isinstance(item, gojson.Unreadable) or not is_shallow([item]):
        return f"a value nested more than {NESTING_MAX} deep"
    text = gojson.encode(item)
    return text if len(text) <= 60 else text[:57] + "..."
