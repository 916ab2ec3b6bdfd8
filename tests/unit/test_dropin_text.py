"""How errors, names and log lines are worded for programs that know the peers (`spec/errors.md`, `spec/cli.md`)."""

import errno
import os
import re

import pytest

from orlop import errors
from orlop.dropin import text


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (errors.LayerUnknown("ours", ref="x"), "layer not known"),
        (errors.ImageUnknown("ours", ref='a"b'), r'locating image with ID "a\"b": image not known'),
        (errors.ContainerUnknown("ours", ref="x"), "container not known"),
        (errors.NotAnID("ours", ref="x"), "identifier is not a layer, image, or container"),
        (errors.NotALayer("ours", ref="x"), "identifier is not a layer"),
        (errors.NotAnImage("ours", ref="x"), "identifier is not an image"),
        (errors.NotAContainer("ours", ref="x"), "identifier is not a container"),
        (
            errors.DataUnknown("ours", kind="layer", key="k", id="L"),
            'locating item named "k" for layer with ID "L": file does not exist',
        ),
        (
            errors.DataUnknown("ours", kind="image", key="", id="I"),
            'locating item named "" for image with ID "I" (consider removing the image to resolve the issue): '
            "file does not exist",
        ),
        (
            errors.DataUnknown("ours", kind="container", key="k", id="C", path="/g/C/k"),
            "open /g/C/k: no such file or directory",
        ),
        (errors.SizeUnknown("ours"), "size is not known"),
        (errors.DigestUnknown("ours"), "could not compute digest of item"),
        (errors.DuplicateID("ours", kind="layer", id="x"), "that ID is already in use"),
        (
            errors.DuplicateID("ours", kind="image", id="x"),
            'an image with ID "x" already exists: that ID is already in use',
        ),
        (errors.DuplicateID("ours", kind="container", id="x"), "that ID is already in use"),
        (errors.DuplicateName("ours", kind="layer", name="n", owner="x"), "that name is already in use"),
        (
            errors.DuplicateName("ours", kind="image", name="n", owner="x"),
            'image name "n" is already associated with image "x": that name is already in use',
        ),
        (
            errors.DuplicateName("ours", kind="container", name="n", owner="x"),
            'the container name "n" is already in use by x. You have to remove that container to be able to reuse '
            "that name: that name is already in use",
        ),
        (
            errors.LayerHasChildren("ours", child="c", children=("c",)),
            "used by layer c: layer has children",
        ),
        (
            errors.LayerUsedByImage("ours", id="L", image="I"),
            "layer L used by image I: layer is in use by an image",
        ),
        (
            errors.LayerUsedByContainer("ours", id="L", container="C"),
            "layer L used by container C: layer is in use by a container",
        ),
        (
            errors.ImageUsedByContainer("ours", container="C"),
            "image used by C: image is in use by a container",
        ),
        (errors.ParentIsContainer("ours"), "would-be parent layer is a container"),
        (errors.LayerNotMounted("ours"), "layer is not mounted"),
        (errors.StillMounted("ours"), "a layer is mounted: layer is in use by a container"),
        (
            errors.IncompleteOptions("ours"),
            "no storage runroot or graphroot specified: missing necessary StoreOptions",
        ),
        (
            errors.InvalidDigest("ours", peer="invalid checksum digest length"),
            "invalid checksum digest length",
        ),
        *[
            (
                errors.InvalidKey("ours", kind="container", action=action),
                f"can't {words}: not a valid name for a big data item",
            )
            for action, words in (
                ("set", "set empty name for container big data item"),
                ("get", "retrieve container big data value for empty name"),
                ("size", "retrieve size of container big data with empty name"),
                ("digest", "retrieve digest of container big data value with empty name"),
            )
        ],
        (errors.ReadOnly("ours"), "called a write method on a read-only store"),
        (errors.DriverNotSupported("ours"), "driver not supported"),
    ],
)
def test_conditions_are_worded_as_the_peers_word_them(error: Exception, wanted: str) -> None:
    assert text.describe(error) == wanted


def test_a_key_that_the_peers_try_to_write_is_refused_with_the_reason() -> None:
    """They know of the empty key only; of any other the text that clients look for comes last."""
    error = errors.InvalidKey('big-data key "..": it would not be one entry of a directory', key="..")
    wanted = (
        'big-data key "..": it would not be one entry of a directory: not a valid name for a big data item'
    )
    assert text.describe(error) == wanted


def test_a_text_given_by_the_raiser_is_taken_whole() -> None:
    error = errors.LayerHasChildren("ours", peer="the whole text", child="c")
    assert text.describe(error) == "the whole text"


def test_an_error_without_the_facts_of_the_long_form_has_the_short_one() -> None:
    assert text.describe(errors.LayerHasChildren("ours")) == "layer has children"


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (errors.BadArchive("at byte 7", peer="unexpected EOF"), "at byte 7: unexpected EOF"),
        (errors.BadArchive("at 7: invalid tar header, really"), "at 7: invalid tar header, really"),
        (
            errors.ContentChanged(
                "file x is not what was put", peer='file integrity checksum failed for "x"'
            ),
            'file x is not what was put: file integrity checksum failed for "x"',
        ),
        (errors.UnsafePath("a/../b"), "a/../b: invalid path"),
        (errors.LockTimeout("waited"), "waited: resource temporarily unavailable"),
        (errors.LimitExceeded("too long"), "too long"),
        (errors.ConfigError("our sentence"), "our sentence"),
        (ValueError("some text"), "some text"),
    ],
)
def test_what_the_peers_do_not_explain_is_told_in_our_sentence(error: Exception, wanted: str) -> None:
    """With the words added that clients look for."""
    assert text.describe(error) == wanted


def test_failures_of_cleaning_up_follow_on_lines_of_their_own() -> None:
    error = errors.LayerUnknown("ours")
    error.add_note("and the directory could not be removed")
    assert text.describe(error) == "layer not known\nand the directory could not be removed"


def test_errors_of_the_system_name_operation_path_and_reason() -> None:
    error = OSError(errno.ENOENT, "No such file or directory", "/x")
    assert text.system_text(error, "open") == "open /x: no such file or directory"
    assert text.describe(OSError(errno.EIO, os.strerror(errno.EIO))) == "input/output error"
    assert text.describe(OSError(errno.EACCES, "Permission denied", b"/x")) == "/x: permission denied"


def test_for_what_is_not_there_the_operation_is_that_of_the_peers() -> None:
    """Python does not say what was tried."""
    missing = os.strerror(errno.ENOENT)
    assert text.describe(OSError(errno.ENOENT, missing, "/x")) == "stat /x: no such file or directory"
    assert text.describe(OSError(errno.ENOENT, missing, b"a/b")) == "open a/b: no such file or directory"


def test_what_we_know_beyond_the_kernels_words_is_told_with_them() -> None:
    """Clients look for the kernel's words."""
    error = OSError(errno.EINVAL, "More than the kernel knows", "/x")
    assert text.describe(error) == "/x: more than the kernel knows: invalid argument"
    error = OSError(errno.EINVAL, "More: Invalid argument", "/x")
    assert text.describe(error) == "/x: more: Invalid argument"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("plain", '"plain"'),
        ("", '""'),
        ('a"b\\c', r'"a\"b\\c"'),
        ("\a\b\f\n\r\t\v", r'"\a\b\f\n\r\t\v"'),
        ("\0\x1f\x7f", r'"\x00\x1f\x7f"'),
        ("caf\u00e9 \u4f60", '"caf\u00e9 \u4f60"'),
        ("\u00a0\u200b\u2028", r'"\u00a0\u200b\u2028"'),
        ("\u0085", r'"\u0085"'),
        ("\U000e0001", r'"\U000e0001"'),
        ("\U0001f600", '"\U0001f600"'),
        (b"/a\xff\xc3\xa9", '"/a\\xff\u00e9"'),
        (b"\xed\xa0\x80", r'"\xed\xa0\x80"'),
    ],
)
def test_quoted_text_is_a_c_string(given: str | bytes, wanted: str) -> None:
    assert text.quote(given) == wanted


def test_lines_of_the_log_have_time_level_and_message(monkeypatch: pytest.MonkeyPatch) -> None:
    line = text.log_line("debug", 'trying "vfs"')
    assert re.fullmatch(
        r'time="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)" level=debug msg="trying \\"vfs\\""\n', line
    )


@pytest.mark.parametrize(
    ("zone", "shown"), [("UTC0", "Z"), ("XYZ-5:30", "+05:30"), ("XYZ+3:30", "-03:30"), ("XYZ+11", "-11:00")]
)
def test_the_time_of_the_log_is_local(monkeypatch: pytest.MonkeyPatch, zone: str, shown: str) -> None:
    import time

    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert f'{shown}" level=' in text.log_line("debug", "x")
    finally:
        monkeypatch.undo()
        time.tzset()
