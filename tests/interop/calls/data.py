"""Data items and directories (`spec/cli.md` 6.8, 6.9)."""

from calls.row import MENDED, NEWER, Row, differs

DATA: list[Row | str] = [
    "create-layer -i L1",
    "create-image -i I1 -n im1 L1",
    "create-container -i C1 im1",
    *[
        row.format(kind=kind, id=id)
        for kind, id in (("layer", "L1"), ("image", "I1"), ("container", "C1"))
        for row in (
            "list-{kind}-data {id}",
            "list-{kind}-data -j {id}",
            "list-{kind}-data zz",
            "set-{kind}-data -f {{work}}/text {id} key",
            "set-{kind}-data -f {{work}}/empty {id} none",
            "set-{kind}-data -f {{work}}/text {id} ''",
            "set-{kind}-data -f /nope {id} key",
            "set-{kind}-data -f /nope zz key",
            "list{kind}data -j {id}",
            "get-{kind}-data {id} key",
            "get-{kind}-data {id} none",
            "get-{kind}-data {id} zz",
            "get-{kind}-data {id} ''",
            "get-{kind}-data zz key",
            "get-{kind}-data -f /nope/x {id} key",
            "get-{kind}-data -f /nope/x zz key",
        )
    ],
    *[
        row.format(kind=kind, id=id)
        for kind, id in (("image", "I1"), ("container", "C1"))
        for row in (
            "get-{kind}-data-size {id} key",
            "get-{kind}-data-size {id} zz",
            "get-{kind}-data-size {id} ''",
            "get-{kind}-data-size zz key",
            "get-{kind}-data-digest {id} key",
            "get-{kind}-data-digest {id} zz",
            "get-{kind}-data-digest {id} ''",
            "get-{kind}-data-digest zz key",
        )
    ],
    Row("set-image-data I1 manifest", b"{}\xff\x00"),
    "get-image-data I1 manifest",
    "get-image-data-digest im1 manifest",
    "image I1",
    "images",
    "images -j",
    "container -j C1",
    "get-image-data I1",
    "get-container-dir C1",
    "getcontainerdir C1",
    "get-container-run-dir C1",
    "get-container-dir zz",
    "get-container-run-dir zz",
    differs("get-image-dir im1", NEWER + "commands and flags", 0, "BASE/graph/vfs-images/I1/userdata\n"),
    differs("getimagerundir I1", NEWER + "commands and flags", 0, "BASE/run/vfs-images/I1/userdata\n"),
    differs(
        "get-image-run-dir zz",
        MENDED + "an unknown image has no directory",
        1,
        err='locating image with ID "zz": image not known\n',
    ),
]
