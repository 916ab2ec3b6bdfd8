"""Digests: one parser, at the boundary."""

import hashlib

import pytest

from orlop.errors import InvalidDigest, StorageError
from orlop.model.digest import MALFORMED, UNSUPPORTED, WRONG_LENGTH, Digest

HEX = "0123456789abcdef"


@pytest.mark.parametrize("text", ["sha256:" + HEX * 4, "sha384:" + HEX * 6, "sha512:" + HEX * 8])
def test_valid_digests_are_themselves(text: str) -> None:
    digest = Digest.parse(text)
    assert digest == text
    assert isinstance(digest, Digest)
    assert f"{digest.algorithm}:{digest.hex}" == text


# What Debian's program says about each (tests/interop/test_records_peer.py asks it again).
INVALID = [
    ("", MALFORMED),
    ("foo", MALFORMED),
    (":x", MALFORMED),
    ("x:", MALFORMED),
    (":", MALFORMED),
    ("sha256", MALFORMED),
    ("sha256:", MALFORMED),
    ("sha256:abc", WRONG_LENGTH),
    ("sha256:../../x", WRONG_LENGTH),
    ("sha256:zz zz", WRONG_LENGTH),
    ("sha256:" + HEX * 5, WRONG_LENGTH),
    ("sha384:" + HEX * 4, WRONG_LENGTH),
    ("sha512:" + HEX * 6, WRONG_LENGTH),
    ("sha256:" + "g" * 64, MALFORMED),
    ("sha256:" + "A" * 64, MALFORMED),
    ("sha256:" + "/" * 64, MALFORMED),
    ("sha256:" + "0" * 63 + "\n", MALFORMED),
    ("foo:bar", UNSUPPORTED),
    ("md5:" + HEX * 2, UNSUPPORTED),
    ("sha1:" + HEX, UNSUPPORTED),
    ("a+b.c_d-e:x=_-Z", UNSUPPORTED),
    ("+x:bar", MALFORMED),
    ("x+:bar", MALFORMED),
    ("a++b:c", MALFORMED),
    ("a+-b:c", MALFORMED),
    ("FOO:abc", MALFORMED),
    ("SHA256:" + HEX * 4, MALFORMED),
    ("foo:a b", MALFORMED),
    ("foo:a/b", MALFORMED),
    ("foo:b:c", MALFORMED),
    (" sha256:" + HEX * 4, MALFORMED),
]


@pytest.mark.parametrize(("text", "peer"), INVALID)
def test_invalid_digests_are_named_by_the_rule_they_break(text: str, peer: str) -> None:
    """N7, CVE-2024-3727: a digest becomes part of paths."""
    with pytest.raises(InvalidDigest) as failure:
        Digest.parse(text)
    assert failure.value.peer == peer
    assert peer in str(failure.value)
    assert failure.value.digest == text
    assert isinstance(failure.value, StorageError)
    assert isinstance(failure.value, ValueError)


def test_the_error_does_not_repeat_a_megabyte() -> None:
    with pytest.raises(InvalidDigest) as failure:
        Digest.parse("x" * 1_000_000)
    assert len(str(failure.value)) < 400


def test_the_digest_of_data_is_sha256() -> None:
    assert Digest.of(b"abc") == "sha256:" + hashlib.sha256(b"abc").hexdigest()
    assert Digest.parse(Digest.of(b"")).algorithm == "sha256"
