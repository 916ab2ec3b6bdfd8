"""Files of records: their bytes become documents and texts, and texts become bytes.

`parse` reads all records in one go where nothing is wrong with any, one by one where something is. A file is written
by joining the text of what changed with that of everything that did not: a save encodes what it changes, and nothing
else comes out otherwise than it was. Where somebody else changed a few of many, only those are read again.
"""

from __future__ import annotations

from orlop.errors import LimitExceeded
from orlop.formats import gojson
from orlop.formats.limits import RECORD_VALUES_MAX, RECORDS_ASIDE_MAX
from orlop.formats.records import BLOCK, LOOKED_AT, Misfit, columns_of, encode, fitted
from orlop.model.ids import is_component
from orlop.model.record import FLAGS, ID_MAPS, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from orlop.formats.records import Columns
    from orlop.model.record import Document

# Between two records as all programs write them. It stands nowhere else, unless a list inside of a record holds
# objects that begin with an id: in a string its quotes would be escaped.
_BETWEEN = '},{"id":"'

_MANY = 500  # records: fewer are read as quickly as they are compared


class Aside:
    """A record that was set aside: its text, its place among the others, its id if it has one, and what is wrong."""

    __slots__ = ("id", "place", "reason", "text")

    def __init__(self, place: int, text: str, value: Any, reason: str) -> None:
        id = value.get("id") if type(value) is dict else None
        self.place = place
        self.text = text
        self.id: str | None = id if type(id) is str else None
        self.reason = reason

    @property
    def is_nameless(self) -> bool:
        """Whether nobody can tell of what it is the record."""
        return self.id is None or not is_component(self.id)

    def mentions(self, id: str) -> bool:
        return self.id == id or gojson.encode_text(id) in self.text

    def __str__(self) -> str:
        named = f" ({self.id[:80]!r})" if self.id else ""
        return f"record {self.place + 1}{named} is set aside: {self.reason}"


class Contents:
    """What a file of records says: a document in normal form for each element, or None if that was set aside.

    And what the file will say: `put` and `drop` change the text of elements, `blocks` are the bytes of the whole. The
    documents stay those that were read.
    """

    __slots__ = (
        "_columns",
        "_kind",
        "_ours",
        "_text",
        "_texts",
        "_were_canonical",
        "asides",
        "documents",
        "is_void",
    )

    def __init__(
        self,
        kind: type[Record],
        documents: list[Document | None],
        text: str,
        *,
        columns: Columns | None = None,
        texts: list[str] | None = None,
        asides: list[Aside] | None = None,
    ) -> None:
        """`text` is that of the file; `columns`, and the `texts` of the elements, if they are known already."""
        self.documents = documents
        self.asides = asides or []
        # Not a single byte, or `null`: what no program writes that has records. (Of a long text no copy is made.)
        self.is_void = not documents and text.strip() in ("", "null")
        self._kind = kind
        self._text = text  # until that of each element is known
        self._texts = texts
        self._columns = columns
        self._ours: set[int] = set()  # places whose text is not the one that was read
        self._were_canonical: bool | None = None

    def column(self, key: str) -> list[Any]:
        """What the documents have for a member, without those that have nothing; in no certain order."""
        if self._columns is None:
            return [document[key] for document in self.documents if document is not None and key in document]
        return self._columns.get(key, [])

    def set_aside(self, place: int, reason: str) -> None:
        """Have done with a document that fits, but for a reason that its declaration does not know."""
        self.asides.append(Aside(place, self.texts()[place], self.documents[place], reason))
        self.asides.sort(key=lambda aside: aside.place)
        self.documents[place] = self._columns = None

    def replace(self, place: int, document: Document) -> None:
        """Have another document in a place; it is on disk with the next save."""
        self.documents[place] = document
        self.put(place, encode(self._kind, document))

    def known(self) -> dict[str, Document | None]:
        """The documents by the text that they were read from."""
        texts = self.texts()
        known = dict(
            zip(texts, self.documents, strict=False)
        )  # there may be new texts behind those that were read
        for place in self._ours:
            known.pop(texts[place], None)
        return known

    @property
    def is_normal(self) -> bool:
        """True if each document is the very value that its text has."""
        return self._columns is not None or not self.documents

    # --- the text -----------------------------------------------------------------------------------------

    def texts(self) -> list[str]:
        """The text of each element, as it stands in the file or as it should; empty where one was dropped."""
        if self._texts is None:
            self._texts = _split(self._kind, self.documents, self._text)
            if self._texts is None:
                self._texts = [text for _, text in gojson.elements(self._text)]
            self._text = ""
        return self._texts

    def put(self, place: int | None, text: str) -> int:
        """Have another text in a place, or at the end; the place."""
        texts = self.texts()
        if place is None:
            place = len(texts)
            texts.append(text)
        else:
            texts[place] = text
        self._ours.add(place)
        return place

    def drop(self, place: int) -> None:
        """Take an element away. The places of the others stay what they are."""
        self.texts()[place] = ""
        self._ours.add(place)

    def blocks(self) -> Iterator[bytes]:
        """The bytes of the file as it should be. In blocks, as a long text in one piece leaves the cache."""
        texts = [*filter(None, self.texts())]
        yield b"["
        for start in range(0, len(texts), BLOCK):
            between = "," if start else ""
            yield gojson.bytes_of(between + ",".join(texts[start : start + BLOCK]))
        yield b"]"

    def canonical(self) -> str | None:
        """The text of all elements, if it is to the byte what `encode` would write; None if it might not be."""
        if not self.is_normal:
            return None
        if self._were_canonical is None:
            read: list[Any] = [d for place, d in enumerate(self.documents) if place not in self._ours]
            self._were_canonical = _is_canonical(self._kind, read, self._text_read())
        if not self._were_canonical:
            return None
        if self._texts is None and self.documents:
            return self._text[1:-1]
        return ",".join(filter(None, self.texts()))

    def _text_read(self) -> str:
        """The text of those elements that are as they were read."""
        if self._texts is None:
            return self._text
        texts = enumerate(self._texts[: len(self.documents)])
        return "[" + ",".join([text for place, text in texts if place not in self._ours]) + "]"


def parse(kind: type[Record], data: bytes, before: Contents | None = None) -> Contents:
    """The records in the bytes of a file. Those that do not fit are set aside, the others go on.

    `before` is what the file said when it was last read; most of it may be the same.

    Raises:
        gojson.SyntaxProblem: the file is not a JSON array.
        LimitExceeded: more values, or more misfits, than any table has.
    """
    text = gojson.text_of(data)
    if len(text) > 2 * RECORD_VALUES_MAX and text.count(",") + text.count(":") > RECORD_VALUES_MAX:
        raise LimitExceeded(f"more than {RECORD_VALUES_MAX} values", limit=RECORD_VALUES_MAX)
    if before is not None and (contents := _mostly_known(kind, text, before)) is not None:
        return contents
    values = gojson.array(text)
    if values is not None and (columns := columns_of(kind, values)) is not None:
        return Contents(kind, values, text, columns=columns)
    documents: list[Document | None] = []
    texts: list[str] = []
    asides: list[Aside] = []
    for value, piece in gojson.elements(text):
        try:
            documents.append(fitted(kind, value))
        except Misfit as misfit:
            if len(asides) == RECORDS_ASIDE_MAX:
                raise LimitExceeded(
                    f"more than {RECORDS_ASIDE_MAX} records that do not fit; the last: {misfit}",
                    limit=RECORDS_ASIDE_MAX,
                ) from None
            asides.append(Aside(len(documents), piece, value, str(misfit)))
            documents.append(None)
        texts.append(piece)
    return Contents(kind, documents, text, texts=texts, asides=asides)


def _mostly_known(kind: type[Record], text: str, before: Contents) -> Contents | None:
    """What a text says, if most of its elements stood in the file before, and nothing is wrong with the others."""
    if len(before.documents) < _MANY or text[:1] != "[" or text[-1:] != "]":
        return None
    # Whole values, joined by commas, are an array of these values. So there is no doubt about where one ends.
    pieces, known = _cut(text), before.known()
    documents = [known.get(piece) for piece in pieces]
    new = [place for place, document in enumerate(documents) if document is None]
    if len(new) > len(pieces) // 2:
        return None
    for place in new:
        values = gojson.array(f"[{pieces[place]}]")
        if values is None or len(values) != 1:
            return None
        documents[place] = values[0]
    if new and columns_of(kind, [documents[place] for place in new]) is None:
        return None
    there: list[Any] = documents
    columns = {key: [document[key] for document in there if key in document] for key in LOOKED_AT}
    return Contents(kind, documents, "", texts=pieces, columns=columns if before.is_normal else None)


def _cut(text: str) -> list[str]:
    """The text of an array, cut where all programs begin another record."""
    pieces = text.split(_BETWEEN)
    pieces[0] = pieces[0].lstrip()[1:].lstrip()
    pieces[-1] = pieces[-1].rstrip()[:-1].rstrip()
    begin, end = _BETWEEN[2:], _BETWEEN[:1]
    pieces[1:] = [begin + piece for piece in pieces[1:]]
    pieces[:-1] = [piece + end for piece in pieces[:-1]]
    return pieces


def _split(kind: type[Record], documents: list[Any], text: str) -> list[str] | None:
    """The text of each element, if all of them begin with their id and follow each other closely; else None.

    What is between two elements may then stand nowhere else, or a change of one would cut another in two.
    """
    pieces = _cut(text)
    certain = len(pieces) == len(documents) and (
        _are_tight(documents, text) or _is_plain(kind, documents, text)
    )
    return pieces if certain else None


def _are_tight(documents: list[Any], text: str) -> bool:
    """True if `_BETWEEN` surely is between all elements: there are no blanks, and each begins with its id."""
    return not any(blank in text for blank in " \n\t\r") and {*map(next, map(iter, documents))} == {"id"}


def _is_canonical(kind: type[Record], documents: list[Document], text: str) -> bool:
    """True if the text of elements in normal form is to the byte what `encode` would write of them."""
    if not documents:
        return True
    fields = kind.FIELDS
    always = {key for key, field in fields.items() if field.always}
    keys = {*map(tuple, documents)}
    return (
        # No blanks, nothing that should be escaped: so it is with layers, the long lists.
        text.isascii()
        and not any(sign in text for sign in " \n\t\r<>&")
        # No maps, whose keys would have to be in order, too.
        and all(_is_simple(kind, key) for key in set().union(*keys))
        and all(_is_subsequence(some, fields) and always.issubset(some) for some in keys)
        and _is_plain(kind, documents, text)
        # Nothing that is left out when it is empty.
        and all(map(all, map(dict.values, documents)))
    )


def _is_plain(kind: type[Record], documents: list[Document], text: str) -> bool:
    """True if the documents are all that stands in the text, and none holds what could be taken for the next one.

    That is: no escapes, no member twice (one would hide the other), no list with objects that have an id.
    """
    if "\\" in text:
        return False
    members = sum(map(len, documents))
    inner = [key for key in set().union(*documents) if not _is_simple(kind, key)]
    values: list[Any] = [document[key] for document in documents for key in inner if key in document]
    while values:
        nested: list[Any] = []
        for value in values:
            if type(value) is list:
                if any(type(item) is dict and "id" in item for item in value):
                    return False
                nested += value
            elif type(value) is dict:
                members += len(value)
                nested += value.values()
        values = nested
    return members == text.count('":')


def _is_simple(kind: type[Record], key: str) -> bool:
    """True for members that hold text, a number, or a list of those."""
    field = kind.FIELDS.get(key)
    return field is not None and field.shape not in (FLAGS, ID_MAPS) and field.shape.json_type is not dict


def _is_subsequence(some: Iterable[str], order: Iterable[str]) -> bool:
    rest = iter(order)
    return all(key in rest for key in some)
