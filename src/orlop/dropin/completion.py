"""Completion for shells, from the table of commands.

    eval "$(orlop-storage completion bash)"         # in ~/.bashrc; zsh likewise
    orlop-storage completion fish | source          # in ~/.config/fish/config.fish

A script of a few lines asks the program at each Tab: `completion SHELL WORD...` prints what the last word can become,
one candidate a line, with a tab and a description where there is one; `:files` or `:directories` stands for those.
Names are looked up in the store that the words speak of. Looking makes no store, and never fails.
"""

from __future__ import annotations

import os
import sys

from orlop.dropin import commands
from orlop.dropin.flags import LIST, SWITCH, Flag, Values
from orlop.dropin.streams import Refusal
from orlop.errors import StorageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orlop.dropin.commands import Command
    from orlop.dropin.streams import Call
    from orlop.store.store import Store

    Candidate = tuple[str, str]
    """What the word can become, and what that is."""

FILES, DIRECTORIES = (":files", ""), (":directories", "")

_VALUES = {
    "graph": [DIRECTORIES],
    "run": [DIRECTORIES],
    "image-store": [DIRECTORIES],
    "file": [FILES],
    "metadata-file": [FILES],
    "hash-method": [("crc", ""), ("size", ""), ("sha256", "")],
}
"""What the values of flags are, by the key of the flag."""


def complete(call: Call) -> int:
    """The command: a script, or candidates."""
    shell, *words = call.args
    if shell not in _SCRIPTS:
        raise Refusal(f"no completion for {shell}: wanted {', '.join(_SCRIPTS)}")
    if not words:
        program = os.path.basename(sys.argv[0])
        function = "_" + "".join(char if char.isalnum() else "_" for char in program)
        call.streams.out(_SCRIPTS[shell].replace("PROGRAM", program).replace("FUNCTION", function))
        return 0
    cut = 0
    if shell == "bash":
        words, cut = _words_of_bash(*words)
    for value, help in candidates(words[:-1], words[-1]):
        if value[:1] == ":":
            call.say(value)
        elif value.startswith(words[-1]):
            call.say(f"{value[cut:]}\t{help}" if help else value[cut:])
    return 0


def candidates(before: list[str], word: str) -> Iterator[Candidate]:
    """What can stand after the words `before`, where `word` is the beginning of it."""
    place = _Place(before)
    if place.lacking is not None:
        yield from _values(place.lacking)
    elif word[:1] == "-" and not place.flags_ended:
        for flag in place.flags:
            for spelling in flag.spellings:
                if spelling.startswith("--") or word == spelling:
                    yield spelling, flag.help
    elif place.command is None:
        if not place.words:
            yield from _commands(word)
    else:
        yield from _arguments(place, word)


class _Place:
    """Where the next word stands, after words that may be wrong."""

    def __init__(self, before: list[str]) -> None:
        self.values = Values()
        self.command: Command | None = None
        self.words: list[str] = []  # that are no flags, without the command
        self.flags_ended = False
        self.lacking: Flag | None = None
        """The flag whose value comes next."""
        self.flags: tuple[Flag, ...] = (*commands.GLOBAL, commands.HELP)
        for word in before:
            self._step(word)

    def _step(self, word: str) -> None:
        if self.lacking is not None:
            self._set(self.lacking, word)
            self.lacking = None
        elif self.flags_ended or word[:1] != "-" or word == "-":
            self._argument(word)
        elif word == "--":
            self.flags_ended = True
        else:
            spelling, equals, value = word.partition("=")
            flag = self._flag(spelling) or self._flag(
                "-" + spelling[-1:]
            )  # of a group the last may need a value
            if flag is not None and flag.kind != SWITCH:
                if equals:
                    self._set(flag, value)
                else:
                    self.lacking = flag

    def _argument(self, word: str) -> None:
        if self.command is not None or self.words:
            self.words.append(word)
            self.flags_ended = True
            return
        self.command = commands.find(word)
        if self.command is None:
            self.words.append(word)
        else:
            self.flags = (*commands.GLOBAL, *self.command.flags)

    def _flag(self, spelling: str) -> Flag | None:
        return next((flag for flag in self.flags if spelling in flag.spellings), None)

    def _set(self, flag: Flag, value: str) -> None:
        self.values[flag.key] = [*self.values.list(flag.key), value] if flag.kind == LIST else value


def _values(flag: Flag) -> Iterable[Candidate]:
    if flag.key == "storage-driver":
        from orlop.drivers import registry

        return [(name, "") for name in registry.names()]
    return _VALUES.get(flag.key, ())


def _commands(word: str) -> Iterator[Candidate]:
    """Main names; another name of a command only to those who know that it begins so."""
    for command in commands.COMMANDS:
        known = [name for name in command.names if name.startswith(word)]
        if known:
            yield known[0], command.summary


def _arguments(place: _Place, word: str) -> Iterator[Candidate]:
    """By what the help text calls the argument. The last kind that may repeat does."""
    command = place.command
    assert command is not None
    kinds = [kind.strip("[]") for kind in command.pattern.split() if kind != "[...]"]
    if not kinds or len(place.words) >= command.most:
        return
    kind = kinds[min(len(place.words), len(kinds) - 1)]
    if kind == "bash|zsh|fish":
        yield from [(shell, "") for shell in _SCRIPTS]
    if kind in ("file", "command"):
        yield FILES
    if kind.endswith("path"):
        if ":" not in word:
            yield FILES
        yield from [(f"{name}:", help) for name, help in _objects(place, "layer")]
    if kind == "key":
        yield from _keys(place, command.kind)
    lowered = kind.lower()
    if lowered.endswith("nameorid"):
        nouns = [noun for noun in ("layer", "image", "container") if noun in lowered]
        yield from _objects(place, *(nouns or ("layer", "image", "container")))


def _objects(place: _Place, *nouns: str) -> Iterator[Candidate]:
    """Names and IDs in the store that the words speak of."""
    with _Looking(place) as store:
        for noun in nouns if store else ():
            for record in getattr(store, noun + "s"):
                for name in record.names:
                    yield name, f"{noun} {record.id[:12]}"
                yield record.id, noun


def _keys(place: _Place, noun: str) -> Iterator[Candidate]:
    """Data items of the object that stands before."""
    with _Looking(place) as store:
        for key in getattr(store, noun + "s").data(place.words[-1]) if store else ():
            yield key, ""


class _Looking:
    """A block with the store that the words speak of, or None. Its errors are silence: nobody asked a question."""

    def __init__(self, place: _Place) -> None:
        self._values = place.values
        self._store: Store | None = None

    def __enter__(self) -> Store | None:
        from orlop.config.load import Configuration
        from orlop.store.opening import open_store

        values = self._values
        graph = values.text("graph")
        try:
            if os.path.isdir(graph or Configuration().effective().graph_root):
                self._store = open_store(
                    graph or None,
                    values.text("run") or None,
                    values.text("storage-driver") or None,
                    driver_options=values.list("storage-opt"),
                    image_store=values.text("image-store") or None,
                    lock_timeout=1,
                )
        except (StorageError, OSError, ValueError):
            return None
        return self._store

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if self._store is not None:
            self._store.close()
        return isinstance(error, StorageError | OSError)


def _words_of_bash(line: str, word: str) -> tuple[list[str], int]:
    """The words of a command line up to the cursor, and how much of the last one bash thinks is another word.

    Bash breaks words at `=` and `:`, too, and replaces what follows the break.
    """
    import shlex

    for closing in ("", '"', "'"):
        try:
            words = shlex.split(line + closing)
            break
        except ValueError:  # an open quote
            continue
    else:
        words = line.split()
    if line[-1:].isspace() or len(words) < 2:
        words.append("")
    last = words[-1]
    if word in ("=", ":"):
        word = ""
    return words[1:], len(last) - len(word) if last.endswith(word) else 0


_SCRIPTS = {
    "bash": """\
FUNCTION() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            :files) compopt -o default ;;
            :directories) compopt -o dirnames ;;
            *)
                line=${line%%$'\\t'*}
                COMPREPLY+=("$line")
                [[ $line != *: ]] || compopt -o nospace
                ;;
        esac
    done < <("${COMP_WORDS[0]}" completion bash \\
        "${COMP_LINE:0:COMP_POINT}" "${COMP_WORDS[COMP_CWORD]}" 2>/dev/null)
}
complete -F FUNCTION PROGRAM
""",
    "zsh": """\
#compdef PROGRAM
FUNCTION() {
    local line
    local -a found
    for line in "${(@f)$(${words[1]} completion zsh "${(@Q)words[2,CURRENT]}" 2>/dev/null)}"; do
        case $line in
            '') ;;
            :files) _files ;;
            :directories) _files -/ ;;
            *$'\\t'*) found+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}") ;;
            *) found+=("${line//:/\\\\:}") ;;
        esac
    done
    (( $#found )) && _describe '' found
}
if [[ ${funcstack[1]} == FUNCTION ]]; then FUNCTION; else compdef FUNCTION PROGRAM; fi
""",
    "fish": """\
function FUNCTION
    set -l words (commandline -opc)
    set -l word (commandline -ct)
    for line in (command $words[1] completion fish $words[2..-1] "$word" 2>/dev/null)
        switch $line
            case :files
                __fish_complete_path "$word"
            case :directories
                __fish_complete_directories "$word"
            case '*'
                echo $line
        end
    end
end
complete -c PROGRAM -f -a '(FUNCTION)'
""",
}
