"""Stories of an ordinary user, who has a store of his own: told from his shell, where ours enters a namespace by
itself, which 1.43 has to be put into; and in a shell that is in one, where he can mount."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import ordinary_user
import pytest
import stories
from ordinary_user import User
from stories import Story, Teller

import invariants
import peers
from tarballs import archive, tar

pytestmark = pytest.mark.parametrize(
    "name",
    [
        "vfs, in turns",
        "overlay",
        "overlay by fuse, in turns",
        *(
            pytest.param(name, marks=pytest.mark.deep)
            for name in ("vfs", "overlay, in turns", "overlay by fuse")
        ),
    ],
)


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    with ordinary_user.made() as user:
        yield user


class HisTeller(Teller):
    """A program that he starts from a shell."""

    def __init__(self, program: peers.Program, user: User, inside: bool) -> None:
        super().__init__(program)
        self._user = user
        self._words = ("buildah", "unshare", "sh", "-c") if inside else ("sh", "-c")

    def start(self, script: str) -> subprocess.Popen[bytes]:
        return self._user.start(*self._words, script, ORLOP_DURABILITY="none")


@dataclass(frozen=True)
class Told:
    """One pair of stores; what is told `outside` is so from his shell, the rest inside a namespace."""

    outside: Story
    inside: Story


@pytest.fixture
def told(user: User, name: str) -> Iterator[Told]:
    peers.need("buildah")
    way = stories.WAYS[name]
    stories.need(way)
    place = user.home / "stories"
    work, *bases = (place / each for each in ("work", "one", "other"))
    user.run("mkdir", "-p", str(work), *map(str, bases))
    both = []
    for inside in (False, True):
        ours, theirs = [], []
        for base in bases:
            settings = {"driver": way.driver, "options": way.options}
            python, script = user.program
            ours.append(HisTeller(peers.Program(script, base, run_as=(python,), **settings), user, inside))
            theirs.append(HisTeller(peers.containers_storage(base, **settings), user, inside=True))
        both.append(Story(way, work, ours, theirs, invariants.by_formats))
    try:
        yield Told(*both)
        both[1].end()
    finally:
        user.run("buildah", "unshare", "rm", "-rf", str(place))


def _archives(told: Told) -> None:
    base = archive(
        "srv", {"name": "srv/one", "data": b"one\n"}, {"name": "srv/his", "uid": 1000, "gid": 1001}, "private"
    )
    (told.outside.work / "base").write_bytes(base.getvalue())
    (told.outside.work / "top").write_bytes(tar("srv/", ("srv/two", b"two\n"), "srv/.wh.one").getvalue())
    (told.outside.work / "cut").write_bytes(base.getvalue()[:1026])


def test_a_user_has_layers_images_and_containers(told: Told) -> None:
    _archives(told)
    told.outside("""
        store layers
        store import-layer -i base -n first -f $work/base
        store import-layer -i top -f $work/top base
        ! store import-layer -i cut -f $work/cut base 2>/dev/null
        store create-image -i app -n example.org/app:1 top
        store create-container -j -i box -n hut app
        echo {} | store set-image-data app manifest
        store layers --tree
        store images
        store containers
        store image app
        store layer --json base
        changes top
        changes $(layer_of box)
        store diff -u top | cmp - $work/top
        store diffsize top
        store status 2>&1 | grep -v 'Supports [sv]'
        ! store delete-layer base
        store set-names -n other top
        store get-names other
    """)
    answer = told.inside("""
        inside box
        m=$(store mount box); echo mine >$m/srv/mine; chown 7:8 $m/srv/mine; rm $m/srv/his; store unmount box
        inside box
        changes $(layer_of box)
        store diff -u $(layer_of box) | tar --numeric-owner -tvf - | sed 's/  */ /g' | cut -d' ' -f1-3,6
        store mount base; store mounted base; store unmount base; store mounted base
    """)
    assert answer.out.endswith("base mounted\nbase mountpoint unmounted\n")
    told.outside("""
        changes $(layer_of box)
        store delete-container hut
        store delete-image app 2>&1
        store layers
        store wipe
        store images
    """)


def test_a_user_maps_what_he_was_given(told: Told) -> None:
    """Ids of his namespace, of which he has a range."""
    _archives(told)
    told.outside("""
        store import-layer -i base -f $work/base
        store create-image -i app base
        store import-layer -j -i mapped --uidmap 0:1000:2000 --gidmap 0:3000:2000 -f $work/base
        store layer mapped
        store diff -u mapped | cmp - $work/base
        changes mapped
    """)
    told.inside("""
        inside mapped
        inside base
    """)
    told.outside("""
        store delete-layer mapped
        store delete-image app 2>&1
        store layers
    """)
