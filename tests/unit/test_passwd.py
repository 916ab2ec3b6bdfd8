"""Text of passwd and group files, and how many ids it asks for (`spec/userns.md` 3.1, 4.4)."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.config import environment
from orlop.errors import AccountUnknown, ConfigError
from orlop.formats.passwd import LINE_MAX, Account, groups, ids_needed, users
from orlop.system import accounts, userns

ROOT = b"root:x:0:0:root:/root:/bin/sh\n"


@pytest.mark.parametrize(
    ("passwd", "group", "size"),
    [
        (b"", b"", 0),
        (b"root:x:0:0", b"", 0),
        (b"root:x:0:0\nu:x:1000:1000\nnobody:x:65534:65534\n", b"", 1001),
        (b"a:x:1000:1000\nb:x:1001:1001\n", b"", 1001),  # compared with the size: the peers' way
        (b"a:x:1000:1000\nb:x:1002:1002\n", b"", 1003),
        (b"a:x:1000:5000", b"", 5001),
        (b"", b"admin:x:4000:\nnogroup:x:65533:\n", 4001),
        (b"FOOBAR", b"FOOBAR", 0),
        (b"x:x:65534:3", b"", 4),
        (b"a:x:10:10\n", b"g:x:11:\n", 11),  # groups go on from where users ended
        (b"a:x:10:10\n", b"g:x:12:\n", 13),
        (b"nogroup:x:70:70\n", b"nobody:x:80:\n", 0),
        (b"n:x:-5:+7\n", b"", 8),
        (b"a:x:1_000:1000.0\n", b"g:x:\xd9\xa3:\n", 0),  # no numbers, and digits of another script
        (b"a:x: 9:9 :x\n", b"", 0),  # only the ends of the line are trimmed
        (b"  \tnobody:x:70:70\r\n", b"", 0),
        (b"\xc2\xa0nobody:x:70:70\n", b"\xe3\x80\x80#g:x:9:\n", 0),  # Unicode's blanks
        (b"\x1cnobody:x:70:70\n", b"", 71),  # which this is not, whatever Python says
        (b"a:x:5:12\x85\n", b"", 6),  # nor half a character
        (b"#c:x:9:9\n", b"#c:x:99:\n", 10),  # comments are for group files
        (b"\n\n \n" + ROOT, b"\n", 0),
        (b"a:x:00000000000000000000000000000000000012:0\n", b"", 13),
    ],
)
def test_the_ids_that_an_image_needs(passwd: bytes, group: bytes, size: int) -> None:
    assert ids_needed(passwd, group) == size


def test_a_number_past_every_id_needs_more_ids_than_there_are() -> None:
    """The peers' sum overflows there. A container with too few ids would be the quiet way to be wrong."""
    for digits in (b"99999999999999999999", b"9" * 60_000, b"4294967296"):
        assert ids_needed(b"a:x:" + digits + b":0\n", b"") > 2**32
        assert ids_needed(b"", b"g:x:" + digits + b":\n") > 2**32
    assert ids_needed(b"a:x:-" + b"9" * 60_000 + b":0\n", b"") == 0


@pytest.mark.parametrize(("length", "size"), [(LINE_MAX - 1, 1001), (LINE_MAX, 0), (LINE_MAX + 1, 0)])
@pytest.mark.parametrize("end", [b"", b"\n", b"\nlast:x:3:3\n"])
def test_a_line_too_long_for_the_peers_makes_a_passwd_file_count_as_empty(
    length: int, size: int, end: bytes
) -> None:
    long = b"long:x:1000:1000:".ljust(length, b"g")
    assert ids_needed(b"a:x:5:5\n" + long + end, b"") == size
    assert ids_needed(b"", b"a:x:5:\n" + long + end) == 1001  # lines of group files have any length


def test_what_is_missing_of_a_line_is_empty_or_zero() -> None:
    assert list(users(b"a\nb:x\nc:x:1\nd:x:1:2\n:x:3:4:::::::\n")) == [
        Account("a", 0, 0),
        Account("b", 0, 0),
        Account("c", 1, 0),
        Account("d", 1, 2),
        Account("", 3, 4),
    ]
    assert list(groups(b"a\n # no\nb:x:7:c,d\n")) == [Account("a", None, 0), Account("b", None, 7)]


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_need_some_number_of_ids(passwd: bytes, group: bytes) -> None:
    assert 0 <= ids_needed(passwd, group) <= 2**63
    assert all(entry.uid is not None for entry in users(passwd))


# --- users of the machine -----------------------------------------------------------------------------------


@pytest.fixture
def getent(tmp_path: Path) -> Path:
    """A directory with a program of that name, which knows one user and one group that no file knows."""
    program = tmp_path / "bin" / "getent"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        'echo "$*" >> "$0.asked"\n'
        'case "$1 $2" in\n'
        '"passwd distant"|"passwd 7654321") echo "distant:*:7654321:7654322:Far:/home/far:/bin/sh";;\n'
        '"group distant") echo "distant:*:7654322:";;\n'
        '"passwd silent") ;;\n'
        '"passwd broken") exit 1;;\n'
        '"passwd closed") exit 3;;\n'
        '"passwd odd") exit 9;;\n'
        "*) exit 2;;\n"
        "esac\n"
    )
    program.chmod(0o755)
    return program


def test_a_user_of_the_machine_is_found_by_name_and_by_number() -> None:
    assert accounts.user("root") == accounts.user("0") == Account("root", 0, 0)
    assert accounts.group("root") == accounts.group("0") == Account("root", None, 0)


def test_whom_no_file_knows_getent_is_asked_for(getent: Path) -> None:
    path = f"relative:/nowhere:{getent.parent}"
    distant = Account("distant", 7_654_321, 7_654_322)
    assert accounts.user("distant", path=path) == accounts.user("7654321", path=path) == distant
    assert accounts.group("distant", path=path) == Account("distant", None, 7_654_322)
    assert accounts.user("root", path=path).uid == 0
    asked = Path(f"{getent}.asked").read_text().splitlines()
    assert asked == ["passwd distant", "passwd 7654321", "group distant"]


@pytest.mark.parametrize(
    ("who", "kind", "peer"),
    [
        (
            "nobody-of-this-name",
            AccountUnknown,
            'getent unable to find entry "nobody-of-this-name" in passwd',
        ),
        ("silent", AccountUnknown, 'getent unable to find entry "silent" in passwd database'),
        ("broken", ConfigError, "getent reported invalid parameters/database unknown"),
        ("closed", ConfigError, "getent database doesn't support enumeration"),
        ("odd", ConfigError, "getent ended with status 9"),
    ],
)
def test_the_answers_of_getent_are_told_apart(
    getent: Path, who: str, kind: type[ConfigError], peer: str
) -> None:
    with pytest.raises(kind) as caught:
        accounts.user(who, path=str(getent.parent))
    assert caught.value.peer.startswith(peer)
    assert caught.value.ref == who


@pytest.mark.parametrize("who", ["-s files", "--help", "", "a\0b", "99999999999", "\udcff"])
def test_what_is_nobodys_name_is_unknown_and_no_switch(getent: Path, who: str) -> None:
    with pytest.raises(AccountUnknown):
        accounts.user(who, path=str(getent.parent))
    asked = Path(f"{getent}.asked")
    assert not asked.exists() or b"-" not in asked.read_bytes()


def test_a_program_that_is_getent_by_name_only_is_not_run(getent: Path, tmp_path: Path) -> None:
    (getent.parent / "busybox").write_bytes(getent.read_bytes())
    (getent.parent / "busybox").chmod(0o755)
    getent.unlink()
    os.symlink("busybox", getent)
    with pytest.raises(AccountUnknown, match="distant"):
        accounts.user("distant", path=str(getent.parent))
    assert not list(tmp_path.rglob("*.asked"))


def test_a_rootless_user_is_called_what_he_says_or_else_what_the_machine_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Root of a namespace is whoever made it; a number that nobody has is no name."""
    known = {1: "mate", 1000: "captain"}

    def user(who: str) -> Account:
        if int(who) not in known:
            raise AccountUnknown(ref=who)
        return Account(known[int(who)], int(who), 0)

    monkeypatch.setattr(accounts, "user", user)
    monkeypatch.setattr(userns, "identity", lambda environ: userns.Identity(1000, 1000, True, True))
    monkeypatch.setenv("USER", "pirate")
    assert environment.login_name() == "pirate"
    for unset in (False, True):
        monkeypatch.setenv("USER", "")
        if unset:
            monkeypatch.delenv("USER")
        for effective, name in ((1, "mate"), (0, "captain"), (5, "")):
            monkeypatch.setattr(os, "geteuid", lambda effective=effective: effective)
            assert environment.login_name() == name
