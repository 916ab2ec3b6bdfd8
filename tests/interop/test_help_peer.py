"""Help texts are laid out to the byte as those of Debian's containers-storage; what they say in words is ours.

Each of its option tables is taken apart and laid out again by our code, and must be what it was.
"""

import re
import subprocess

import peers
from orlop.dropin import commands
from orlop.dropin.flags import LIST, SWITCH, TEXT, Flag, Values, table

# Its table for this one ends in a crash: a flag without a name.
CRASHING = {"copy"}
YOUNGER = {"--image-store", "--transient-store", "--unshare", "-U"}
"""Global flags that 1.43 does not have."""


def taken_apart(text: str) -> tuple[list[Flag], Values]:
    """The flags of an option table, and the values that it shows."""
    flags, values = [], Values()
    for row in text.strip("\n").split("\n"):
        parts = re.fullmatch(r"  (-.*?) {4,}(.*)", row)
        assert parts, row
        left, help = parts.groups()
        spellings, equals, value = left.partition("=")
        flag = Flag(
            spellings.replace(",", ""), help, LIST if value[:1] == "[" else TEXT if equals else SWITCH
        )
        flags.append(flag)
        if flag.kind == LIST:
            values[flag.key] = value[1:-1].split()
        elif equals:
            values[flag.key] = value
    return flags, values


def test_the_option_table_of_each_command_is_laid_out_as_theirs(theirs: peers.Program) -> None:
    seen = 0
    for command in commands.COMMANDS:
        for name in command.names:
            said = theirs("--storage-opt", ".imagestore=", name, "--help", ok=False)
            if b"unrecognized command" in said.out:
                continue  # younger than theirs
            assert re.match(rf"Usage: .*containers-storage {name}\b.*\n\n.+\n\nOptions:\n\Z", said.text), (
                said.text
            )
            if command.names[0] in CRASHING:
                assert b"panic: " in said.err, "theirs was mended: hold it against ours"
                continue
            assert said.status == 125
            text = said.err.decode()
            flags, values = taken_apart(text)
            assert "\n" + table(flags, values) == text
            ours = {s: flag.spellings for flag in (*commands.GLOBAL, *command.flags) for s in flag.spellings}
            for flag in flags:
                kept = tuple(spelling for spelling in ours[flag.spellings[0]] if spelling in flag.spellings)
                assert flag.spellings == kept, name
            seen += 1
    assert seen >= 78


def test_the_general_help_is_laid_out_as_theirs(theirs: peers.Program) -> None:
    said = subprocess.run([theirs.path, "--help"], capture_output=True, text=True, check=True)
    head, _, options = said.stdout.partition("\nOptions:\n")
    lines = head.split("\n")
    assert re.fullmatch(r"Usage: .*containers-storage command \[options \[\.\.\.\]\]", lines[0])
    assert lines[1:4] == ["", "Commands:", ""]
    for line in lines[4:-1]:
        name, summary = line[2:32].strip(), line[32:]
        assert line == f"  {name:30}{summary}"
        assert name in {command.names[0] for command in commands.COMMANDS}
    flags, values = taken_apart(options)
    assert "\n" + table(flags, values) == options
    known = {spelling for flag in (*commands.GLOBAL, commands.HELP) for spelling in flag.spellings}
    assert {spelling for flag in flags for spelling in flag.spellings} == known - YOUNGER


def test_our_general_help_has_the_same_lines(ours: peers.Program) -> None:
    said = subprocess.run([ours.path, "--help"], capture_output=True, text=True, check=True)
    head, _, options = said.stdout.partition("\nOptions:\n")
    lines = head.split("\n")
    assert lines[:4] == ["Usage: orlop-storage command [options [...]]", "", "Commands:", ""]
    assert [line[2:32].strip() for line in lines[4:-1]] == [command.names[0] for command in commands.COMMANDS]
    assert [flag.spellings for flag in taken_apart(options)[0]] == [
        flag.spellings
        for flag in sorted((*commands.GLOBAL, commands.HELP), key=lambda flag: flag.spellings[0].lower())
    ]
