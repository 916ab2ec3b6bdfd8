"""What 1.43 does not have yet: the answers are those that `spec/cli.md` writes down of 1.60."""

from calls.row import MENDED, NEWER, Answer, Row, differs
from orlop.version import __version__


def young(call: str, out: str = "", err: str = "", status: int = 0) -> Row:
    return Row(call, ours=Answer(status, out, err), why=NEWER + "commands and flags")


def surplus(command: str) -> Row:
    return young(f"{command} x", f"{command}: too many arguments ([x]).\nHELP\n", "TABLE\n", 1)


def verdict(layers: int = 0, images: int = 0, containers: int = 0) -> str:
    return (
        f"{layers} layer errors, 0 read-only layer errors, {images} image errors, 0 read-only image errors, "
        f"{containers} container errors\n"
    )


_CLEAN = '{"Layers":{},"ROLayers":{},"Images":{},"ROImages":{},"Containers":{}}\n'
_ORPHAN = "layer S6:\n layer S6: layer in lower level storage driver not accounted for\n"
_LONELY = "layer U1:\n layer U1: layer not referenced by any images or containers\n"
_NO_IMAGE = 'locating image with ID "zz": image not known\n'
_USERDATA = "vfs-images/I1/userdata\n"

YOUNG: list[Row | str] = [
    # Layers of the driver
    young("create-storage-layer -i S1", "S1\n"),
    young("create-storage-layer --json --id S2 S1", '"S2"\n'),
    young("create-storage-layer --id S1", "S1\n"),
    young("create-storage-layer zz", err="Stat BASE/graph/vfs/dir/zz: no such file or directory\n", status=1),
    young("create-storage-layer --uidmap 0:1000:10 --gidmap 0:2000:10 -i S3", "S3\n"),
    young("!stat -c '%u %g' BASE/graph/vfs/dir/S3", "1000 2000\n"),
    young("create-storage-layer --label x -l y --readonly -r -j -i S4", '"S4"\n'),
    young("create-storage-layer --hostuidmap --hostgidmap -i S5", "S5\n"),
    young(
        "create-storage-layer --hostuidmap --uidmap 0:1:1",
        err="host uid map specified along with UID mapping\n",
        status=1,
    ),
    young(
        "create-storage-layer --subuidmap no-such-user",
        err='no subuid ranges found for user "no-such-user" in /etc/subuid\n',
        status=1,
    ),
    young(
        "create-storage-layer --subgidmap no-such-group",
        err='no subuid ranges found for user "no-such-group" in /etc/subuid\n',
        status=1,
    ),
    young("storage-layers --json", '["S1","S2","S3","S4","S5"]\n'),
    young("storage-layers", "S1\nS2\nS3\nS4\nS5\n"),
    "layers",
    young("gc"),
    young("storage-layers -j", "[]\n"),
    young("create-storage-layer", "ID1\n"),
    young("gc --json", '""\n'),
    young("gc -j", '""\n'),
    surplus("gc"),
    # Looking for damage, and mending it
    young("check"),
    young("check --json", _CLEAN),
    young("create-storage-layer -i S6", "S6\n"),
    young("check", _ORPHAN, verdict(1), 1),
    young("check -q", _ORPHAN, verdict(1), 1),
    young("check -j", _CLEAN.replace('"Layers":{}', '"Layers":{"S6":[{}]}', 1), verdict(1), 1),
    young("check --repair --quick", _ORPHAN),
    young("check -qj", _CLEAN),
    young("storage-layers"),
    "--graph BASE/lonely create-layer -i U1",
    young("--graph BASE/lonely check"),
    young("--graph BASE/lonely check --max 87600h"),
    young("--graph BASE/lonely check -m 0", _LONELY, verdict(1), 1),
    young("--graph BASE/lonely check --max=0.000s", _LONELY, verdict(1), 1),
    young("--graph BASE/lonely check -r -m 1h"),
    "--graph BASE/lonely layers",
    young("--graph BASE/lonely check -rm 0", _LONELY),
    young("--graph BASE/lonely layers"),
    young("--graph BASE/lonely create-layer -i U1", "U1\n"),
    young("--graph BASE/lonely check --force --max -1ms", _LONELY),
    young("--graph BASE/lonely check -f -m +0"),
    young("check --max soon", err='time: invalid duration "soon"\n', status=1),
    young("check -m 10", err='time: missing unit in duration "10"\n', status=1),
    young("check -m=", err='time: invalid duration ""\n', status=1),
    surplus("check"),
    young("dedup", "Deduplicated 0 bytes\n"),
    young("dedup --hash-method size --json", '{"Deduped":0}\n'),
    young("dedup -j --hash-method=sha256", '{"Deduped":0}\n'),
    young("dedup --hash-method sha256sum", err="invalid hash method: sha256sum\n", status=1),
    surplus("dedup"),
    young("version --json", f'[["Version","{__version__}"]]\n'),
    young("version -j", f'[["Version","{__version__}"]]\n'),
    young("version", err=f"Version: {__version__}\n"),
    surplus("storage-layers"),
    # Images: directories, names, mounts
    "create-layer -i L1",
    "create-image -i I1 -n im1 L1",
    young("get-image-dir I1", f"BASE/graph/{_USERDATA}"),
    young("getimagedir im1", f"BASE/graph/{_USERDATA}"),
    young("get-image-run-dir im1", f"BASE/run/{_USERDATA}"),
    young("getimagerundir I1", f"BASE/run/{_USERDATA}"),
    young("get-image-dir zz", err=_NO_IMAGE, status=1),
    young("get-image-run-dir zz", err=_NO_IMAGE, status=1),
    young("mount --read-only I1", "BASE/graph/vfs/dir/L1\n"),
    young("mount --ro -j im1", '[{"id":"im1","mountpoint":"BASE/graph/vfs/dir/L1","error":""}]\n'),
    young("mount -r zz I1", "\nBASE/graph/vfs/dir/L1\n", f"{_NO_IMAGE[:-1]} while mounting zz\n", 1),
    young("check", err="shutdown: a layer is mounted: layer is in use by a container\n"),
    "mount --option x L1",
    "unmount im1",
    "unmount I1",
    "unmount I1",
    young("layers --quick", "L1\n"),
    young("remove-names -n im1 -n zz I1"),
    young("remove-names --name x --json I1", "null\n"),
    young("removenames I1"),
    young("removenames zz", err="layer not known\n", status=1),
    # The configuration
    young("config BASE/nope", err="reload: stat BASE/nope: no such file or directory\n", status=1),
    '!printf \'[storage]\ndriver="vfs"\nrunroot="$HOME/r"\ntransient_store=true\n\' > BASE/x.conf',
    '!printf \'[storage.options]\nadditionalimagestores=["/a"]\npull_options={a="b"}\n\' >> BASE/x.conf',
    young(
        "config BASE/x.conf",
        '{"runroot":"$HOME/r","RootlessStoragePath":"","driver":"vfs","driver-options":["vfs.imagestore=/a"],'
        '"PullOptions":{"a":"b"},"transient_store":true}\n',
    ),
    young("config a b", "config: too many arguments ([a b]).\nHELP\n", "TABLE\n", 1),
    young(
        "config --json",
        err="flag provided but not defined: --json\nSee 'PROGRAM config --help'.\n",
        status=125,
    ),
    # A directory as a partial pull (on overlay: `test_staging_peer.py`)
    young("applydiff-using-staging-dir L9 {work}", err="partial images are disabled\n", status=1),
    young(
        "applydiff-using-staging-dir L9",
        "applydiff-using-staging-dir: more arguments required.\nHELP\n",
        "TABLE\n",
        1,
    ),
    young(
        "applydiff-using-staging-dir L9 b c",
        "applydiff-using-staging-dir: too many arguments ([L9 b c]).\nHELP\n",
        "TABLE\n",
        1,
    ),
    # Namespaces
    young("unshare true"),
    young("unshare sh -c 'exit 3'", err="exit status 3\n", status=1),
    young("unshare no-such", err='exec: "no-such": executable file not found in $PATH\n', status=1),
    young("unshare -- sh -c 'echo $0 $@' a b", "a b\n"),
    young("-U unshare sh -c 'echo hi'", "hi\n"),
    young("--unshare layers -q", "L1\n"),
    young("layers -U=true -q", "L1\n"),
    young("layers --unshare=false -q", "L1\n"),
    # Completion
    young("completion csh", err="no completion for csh: wanted bash, zsh, fish\n", status=1),
    young("completion fish layers --tre", "--tree\tShow who is whose parent\n"),
    young("completion zsh -g BASE/graph -R BASE/run -s vfs layer L", "L1\tlayer\n"),
    # A split store
    young("--image-store BASE/split create-layer -i L2", "L2\n"),
    young("--image-store BASE/split create-layer -r -i L3", "L3\n"),
    young(
        "!ls BASE/split/vfs/dir BASE/graph/vfs/dir",
        "BASE/graph/vfs/dir:\nL1\nL2\n\nBASE/split/vfs/dir:\nL3\n",
    ),
    young("--image-store BASE/split create-image -i I3 -n im3 L3", "I3\n\tim3\n"),
    young("--image-store BASE/split layers -q", "L1\nL2\nL3\n"),
    young("--image-store BASE/split layer L3", "ID: L3\n"),
    young("--image-store BASE/split images -q", "I3\nI1\n"),
    young("images --image-store BASE/split -q", "I3\nI1\n"),
    young("--image-store BASE/split storage-layers", "L1\nL2\n"),
    young("--image-store BASE/split create-container -i C1 im3", "C1\n"),
    young("--image-store BASE/split delete-container C1"),
    young("--graph BASE/split images", "I3\n\tname: im3\n"),
    young("layers -q", "L1\nL2\n"),
    "images -q",
    young("--image-store BASE/split delete-image I3", err="I3: L3\n"),
    young("--image-store BASE/split delete-layer L2"),
    young(
        "--image-store BASE/graph layers",
        "error initializing: imagestore BASE/graph must either be not set or be a different than graphroot\n",
        status=1,
    ),
    # Containers that do not outlive a boot
    young("--transient-store create-container -i C2 -n tbox I1", "C2\n\ttbox\n"),
    young("containers --transient-store=1", "C2\n\tname: tbox\n"),
    young(
        "--transient-store container -j C2",
        '[{"id":"C2","names":["tbox"],"image":"I1","layer":"ID2","created":"TIME",'
        '"flags":{"MountLabel":"","ProcessLabel":"","Volatile":true}}]\n',
    ),
    "containers",
    young("--transient-store delete-container tbox"),
]

COPYING: list[Row | str] = [
    differs(
        "copy",
        MENDED + "help for copy, where it crashes",
        1,
        "copy: more arguments required.\nHELP\n",
        "TABLE\n",
    ),
    differs(
        "copy a",
        MENDED + "help for copy, where it crashes",
        1,
        "copy: more arguments required.\nHELP\n",
        "TABLE\n",
    ),
    "copy zz:/a {work}/text",
    "copy {work}/text zz:/a",
    "copy zz:/a yy:/b",
    differs(
        "copy --chown a {work}/text zz:/a",
        NEWER + "another text",
        1,
        err='bad UID: strconv.ParseUint: parsing "a": invalid syntax\n',
    ),
    differs(
        "copy --chown 1:b {work}/text zz:/a",
        NEWER + "another text",
        1,
        err='bad GID: strconv.ParseUint: parsing "b": invalid syntax\n',
    ),
    differs(
        "copy --chown 1:2:3 {work}/text zz:/a",
        NEWER + "another text",
        1,
        err='bad GID: strconv.ParseUint: parsing "2:3": invalid syntax\n',
    ),
    differs(
        "copy --chown 4294967296 {work}/text zz:/a",
        NEWER + "another text",
        1,
        err='bad UID: strconv.ParseUint: parsing "4294967296": value out of range\n',
    ),
    "create-layer -i L1 -n base",
    "copy {work}/nope L1:/a",
    "copy {work}/text base:/text",
    "copy --chown=5 {work}/text {work}/empty L1:/owned",
    "copy L1:/text BASE/out/",
    "!cat BASE/out/text",
    "!stat -c '%u %g' BASE/graph/vfs/dir/L1/owned",
    young("copy -j --json -o 7 {work}/text L1:/j"),
]
