"""Finding regular files that have the same content in many trees (`spec/dedup.md` 2).

Files of a size that no other file has are not looked at any further. Of the others the kernel is asked first where
they lie: what lies on the same blocks as another file has its content, and need not be read. The rest is read, and
gets a key made of its content; files of one key are taken to be equal until the kernel, which compares them byte by
byte before it shares anything, says otherwise.

Rule: A file that changes, vanishes or cannot be read is left out. Nothing is written, no time changes.
"""

from __future__ import annotations

import os

from orlop.stream.filetable import Opener
from orlop.stream.fingerprints import Readers, key_function
from orlop.system.descent import GONE
from orlop.system.sharing import BLOCK, extents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Iterable, Iterator

    from orlop.stream.filetable import Files
    from orlop.stream.fingerprints import Key

    Report = Callable[[int, int], object]
    """Told how many files of how many are done."""

_MASK = 2**64 - 1
_SPREAD = 0x9E37_79B9_7F4A_7C15
_REPORT_EVERY = 1000
_UNREADABLE_MAX = 1000
"""Files that are named as unreadable; a broken disk has more, and a report is for people."""


class Duplicates:
    """Which files should lie on the blocks of which others: `targets`, ascending, and for each its `sources`.

    `together_bytes` are the lengths of files that lie on the blocks of another one already. Of a file, `alone` are
    the bytes on which nothing else lies; `tangled` says that there are others, too. `unreadable` are files that were
    left out, each with a sentence.
    """

    def __init__(self, files: Files, method: str, report: Report | None = None) -> None:
        from array import array

        self.files = files
        self.targets = array("I")
        self.sources = array("I")
        self.together_bytes = 0
        self.unreadable: list[tuple[int, str]] = []
        self.alone = array("Q", bytes(8 * len(files)))
        self.tangled = bytearray(len(files))
        self._key = array("Q", bytes(8 * len(files)))
        self._layout = array("Q", bytes(8 * len(files)))
        key_of = key_function(method)
        candidates = array("I", [number for number in range(len(files)) if files.has_twin(number)])
        for done, _ in enumerate(self._asked(candidates, key_of)):
            if report is not None and done % _REPORT_EVERY == 0:
                report(done, len(candidates))
        if report is not None:
            report(len(candidates), len(candidates))
        self._pair(candidates)

    # --- content ----------------------------------------------------------------------------------------------

    def _asked(self, candidates: Iterable[int], key_of: Key) -> Iterator[int]:
        """Give every candidate its key; the numbers as they are done, more or less."""
        twins = []
        with Opener(self.files) as opener, Readers(self._take) as readers:
            for number in candidates:
                fd = self._opened(opener, number)
                if fd >= 0:
                    if not self._look(number, fd):
                        os.close(fd)
                    elif self._layout[number]:
                        os.close(fd)
                        twins.append(number)
                        continue
                    else:
                        readers.read(number, fd, self.files.size[number], key_of)
                yield number
            twins.sort(key=self._layout.__getitem__)
            for number, first in self._with_first(twins):
                fd = self._opened(opener, number) if number == first else -1
                if fd >= 0:
                    readers.read(number, fd, self.files.size[number], key_of)
                yield number
        for number, first in self._with_first(twins):
            self._key[number] = self._key[first]

    def _with_first(self, twins: Iterable[int]) -> Iterator[tuple[int, int]]:
        """Each with the first that lies on the same blocks."""
        first = -1
        for number in twins:
            if first < 0 or self._layout[number] != self._layout[first]:
                first = number
            yield number, first

    def _opened(self, opener: Opener, number: int) -> int:
        try:
            return opener.open(number)
        except OSError as error:
            self._take(number, error)
            return -1

    def _take(self, number: int, result: int | OSError) -> None:
        """The key of a file, or why there is none."""
        if not isinstance(result, OSError):
            # Together with the size: files of different sizes are different, whatever the checksum says.
            self._key[number] = (result ^ self.files.size[number] * _SPREAD) & _MASK or 1
        elif result.errno not in GONE and len(self.unreadable) < _UNREADABLE_MAX:
            self.unreadable.append((number, f"it cannot be read: {result.strerror}"))

    def _look(self, number: int, fd: int) -> bool:
        """Find out where an open file lies; False if it has no blocks (a hole, or kept inside a tree of btrfs)."""
        try:
            found = extents(fd, sync=True)
        except OSError:  # the file system does not tell: reading tells all the same what is equal
            self.alone[number] = os.fstat(fd).st_blocks * BLOCK
            return self.alone[number] > 0
        self.alone[number] = sum([each.length for each in found if not each.shared])
        self.tangled[number] = any(each.shared for each in found)
        # Of a compressed extent it is not told which part of its content a file shows.
        if self.tangled[number] and not self.alone[number] and not any(each.encoded for each in found):
            layout = hash(
                (self.files.size[number], *[(each.offset, each.place, each.length) for each in found])
            )
            self._layout[number] = layout & _MASK or 1
        return bool(found)

    # --- pairs ------------------------------------------------------------------------------------------------

    def _pair(self, candidates: array[int]) -> None:
        """Of equal files, those on the blocks of which most lie already stay; the others are to lie there, too."""
        from array import array

        order = sorted(filter(self._key.__getitem__, candidates), key=self._key.__getitem__)
        none = len(self.files)
        source_of = array("I", [none]) * none
        for group in self._groups(order):
            together: dict[int, int] = {}
            for number in group:
                layout = self._layout[number]
                if layout:
                    together[layout] = together.get(layout, 0) + 1
            best = max(together, key=together.__getitem__) if together else 0
            source = next(number for number in group if self._layout[number] == best)
            for number in group:
                if best and self._layout[number] == best and number != source:
                    self.together_bytes += self.files.size[number]
                elif number != source:
                    source_of[number] = source
        for number, source in enumerate(source_of):
            if source != none:
                self.targets.append(number)
                self.sources.append(source)

    def _groups(self, order: Iterable[int]) -> Iterator[list[int]]:
        """Two files and more that have the same key, ascending."""
        group: list[int] = []
        for number in order:
            if group and self._key[number] != self._key[group[0]]:
                if len(group) > 1:
                    yield group
                group = []
            group.append(number)
        if len(group) > 1:
            yield group
