"""Additional image stores, read-only beside the store (`spec/cli.md` 11)."""

from dataclasses import replace

from calls.row import NEWER, Row, differs


def _beside(entry: Row | str) -> Row:
    """The call with the other store beside ours."""
    row = entry if isinstance(entry, Row) else Row(entry)
    return replace(row, call=f"--storage-opt .imagestore=BASE/ro {row.call}")


_WITH_IT: list[Row | str] = [
    "layers",
    "layers -t",
    "layers -j",
    "images",
    "images -j",
    "containers",
    "layer R2 rbase L1",
    "layer -j R2",
    "image RI1 rim1 RI2",
    "image -j RI1",
    "container RC1",
    "exists R1 RI1 rim1 RC1",
    "exists -l R1",
    "metadata RI1 R1",
    "get-names RI1",
    "list-image-data RI1",
    "get-image-data RI1 key",
    "get-image-data-size RI1 key",
    "get-image-data-digest RI1 key",
    "get-image-data RI1 zz",
    "list-layer-data R2",
    "get-layer-data R2 lkey",
    "set-image-data -f {work}/text RI1 key",
    "set-layer-data -f {work}/text R2 key",
    "set-metadata -m new RI1",
    "set-metadata -m new R1",
    "set-names -n new R1",
    "add-names -n new R1",
    differs(
        "mount R1",
        NEWER + "another text",
        1,
        "\n",
        "mounting read/only store images is not allowed: called a write method on a read-only store "
        "while mounting R1\n",
    ),
    "mount RI1",
    "mounted R1",
    "unmount R1",
    "changes R2",
    "diffsize R2",
    "diff -u -f BASE/out R2",
    "!sha256sum < BASE/out",
    "applydiff -f {work}/tree.tar R2",
    "delete R2",
    "delete-layer R2",
    "delete-image RI1",
    "delete-image -t RI1",
    "layer-parent-owners R1",
    "images-by-digest sha256:0000000000000000000000000000000000000000000000000000000000000000",
    "create-layer -i L2 R2",
    "changes L2",
    "create-container -i C1 rim1",
    "container C1",
    "mount C1",
    "unmount C1",
    "delete-container C1",
    "delete-image RI1",
    "create-layer -i R1",
    "create-layer -n rbase",
    "get-container-dir C1",
    differs(
        "copy R2:/f BASE/copied",
        NEWER + "another text",
        1,
        err='error mounting layer "R2": mounting read/only store images is not allowed: '
        "called a write method on a read-only store\n",
    ),
    differs(
        "copy {work}/text R2:/x",
        NEWER + "another text",
        1,
        err='error mounting layer "R2": mounting read/only store images is not allowed: '
        "called a write method on a read-only store\n",
    ),
    "set-names -n shared I1",
    "add-names -j -n extra RI1",
    "images",
    "get-names RI1",
    "set-names -n only RI2",
    "images",
    "wipe",
    "layers",
    "images",
    "create-image -i RI1",
    differs(
        "get-names RI1",
        NEWER + "an image of that id is made from the one in the additional store",
        0,
        "rim1\nshared\n",
    ),
]

ADDITIONAL: list[Row | str] = [
    "--graph BASE/ro create-layer -i R1 -n rbase",
    "--graph BASE/ro import-layer -i R2 -n rtop -f {work}/tree.tar R1",
    "--graph BASE/ro create-image -i RI1 -n rim1 -n shared -m meta R2",
    "--graph BASE/ro create-image -i RI2",
    "--graph BASE/ro set-image-data -f {work}/text RI1 key",
    "--graph BASE/ro set-layer-data -f {work}/text R2 lkey",
    "--graph BASE/ro create-container -i RC1 RI1",
    "--graph BASE/ro shutdown",
    "create-layer -i L1",
    "create-image -i I1 -n local L1",
    *map(_beside, _WITH_IT),
    "--storage-opt vfs.imagestore=BASE/empty layers",
    "--storage-opt vfs.imagestore=BASE/ro,BASE/ro layers",
    "--storage-opt vfs.imagestore=BASE/ro --storage-opt .imagestore=BASE/ro layers",
]
