"""The attack tests themselves: a step outside is seen, and does no harm."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import attacks
import layers
import unpacking
from orlop.stream.unpack import UnpackResult
from rawtar import member

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def test_everything_but_the_case_is_read_only(
    attack: attacks.Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def escape(*_: object, **__: Any) -> UnpackResult:
        os.mkdir("/orlop-escaped")
        return UnpackResult(0)

    monkeypatch.setattr(unpacking, "unpack", escape)
    monkeypatch.setattr(layers, "fill", escape)
    outcome = attack(member(b"x"))
    assert "Read-only file system" in outcome.text


def test_a_canary_that_was_touched_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = attacks.make_root(tmp_path, "fork")
    canary = attacks.plant_canary(root)
    attack = attacks.Attack(tmp_path, root, "fork")
    before = attacks.known(canary)
    attack(member(b"x", b"y"))
    assert attacks.known(canary) == before

    def escape(*_: object, **__: Any) -> UnpackResult:
        os.utime(canary / "sub/file", ns=(11, 13))
        return UnpackResult(0)

    monkeypatch.setattr(unpacking, "unpack", escape)
    attack(member(b"x"))
    assert attacks.known(canary) != before
