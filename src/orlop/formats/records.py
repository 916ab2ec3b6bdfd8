"""Records as JSON text: one declaration (`model/`) checks what is read and orders what is written.

Format: `spec/records.md` sections 3 to 6. Reading a table is `gojson.elements` and `fitted` for each element;
writing one is `encode` for what changed, joined with the text of everything that did not.
"""

from __future__ import annotations

from orlop.formats import gojson
from orlop.model.record import TIME, Record, Shape, Stored
from orlop.model.timestamp import UNSET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.model.record import Document


class Misfit(ValueError):
    """A document that does not fit its declaration; says which member, what was wanted and found."""


def fitted(kind: type[Record], value: Any) -> Document:
    """Check a decoded JSON object against the declaration and return it in normal form.

    Normal form: declared members under their own spelling (the peers match names case-insensitively), no
    `null` members. The object itself is returned when it is normal already, which is the usual case.

    Raises:
        Misfit: not an object, no id, or a member of the wrong type.
    """
    if type(value) is not dict:
        raise Misfit(f"wanted an object, found {type(value).__name__}")
    fields = kind.FIELDS
    strange = False
    for key, item in value.items():
        field = fields.get(key)
        if field is None:
            strange = strange or key.lower() in fields
        elif not field.shape.fits(item):
            if item is not None:
                raise Misfit(f'member "{key}": wanted {field.shape.name}, found {_shown(item)}')
            strange = True
    if strange:
        value = _normal(fields, value)
    if not value.get("id"):
        raise Misfit("a record without an id")
    document: Document = value
    return document


def _normal(fields: dict[str, Stored], value: dict[str, Any]) -> Document:
    document: Document = {}
    for key, item in value.items():
        known = key if key in fields else key.lower()
        field = fields.get(known)
        if field is None:
            document[key] = item
        elif item is None:
            document.pop(known, None)
        elif not field.shape.fits(item):
            raise Misfit(f'member "{key}": wanted {field.shape.name}, found {_shown(item)}')
        else:
            document[known] = item
    return document


def json_of(record: Record) -> str:
    """The compact JSON text of a value, as it stands in its file."""
    return encode(type(record), record._document)


def _shown(item: object) -> str:
    text = gojson.encode(item)
    return text if len(text) <= 60 else text[:57] + "..."


def encode(kind: type[Record], document: Document) -> str:
    """The JSON text of one record: declared members in order without the empty ones, then the others."""
    fields = kind.FIELDS
    parts = []
    for key, field in fields.items():
        item = document.get(key)
        if item or field.always:
            parts.append(f'"{key}":{gojson.encode(_zero_json(field.shape) if item is None else item)}')
    parts += [
        f"{gojson.encode_text(key)}:{gojson.encode(document[key])}" for key in document if key not in fields
    ]
    return "{" + ",".join(parts) + "}"


def _zero_json(shape: Shape) -> object:
    return str(UNSET) if shape is TIME else shape.json_type()
