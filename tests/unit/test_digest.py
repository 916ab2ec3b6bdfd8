"""Digests: one parser, at the boundary."""

import hashlib

import pytest

from oddities import HEX, INVALID_DIGESTS
from orlop.errors import InvalidDigest, StorageError
from orlop.model.digest import MALFORMED, Digest


@pytest.mark.parametrize("text", ["sha256:" + HEX * 4, "sha384:" + HEX * 6, "sha512:" + HEX * 8])
def test_valid_digests_are_themselves(text: str) -> None:
    digest = Digest.parse(text)
    assert digest == text
    assert isinstance(digest, Digest)
    assert f"{digest.algorithm}:{digest.hex}" == text


@pytest.mark.parametrize(("text", "peer"), [("", MALFORMED), *INVALID_DIGESTS])
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
