"""Every command of the drop-in, declared once: names, arguments, flags, help, and the function that answers it.

The parser, the help texts and the dispatch follow from this table. A function is named by module and imported
when its command is called, which is what keeps `version` as quick as the interpreter.
"""

from __future__ import annotations

from orlop.dropin.flags import LIST, SWITCH, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.dropin.streams import Call

    Handler = Callable[[Call], int]

UNLIMITED = 1 << 30

# Any of these before the command puts the configuration aside (`spec/cli.md` 1.4).
STORE = (
    Flag("--graph -g", "Directory of the store (graph root)"),
    Flag("--run -R", "Directory of what does not outlive a boot (run root)"),
    Flag("--storage-driver -s", "Storage driver"),
    Flag("--storage-opt", "Option of the driver, key=value; may be repeated", LIST),
)
# What an invocation may say before and after the command alike.
GLOBAL = (
    *STORE,
    Flag("--image-store", "Separate directory for images and their layers"),
    Flag("--transient-store", "Keep records of containers in the run root only", SWITCH),
    Flag("--debug -D", "Print debugging information", SWITCH),
    Flag("--unshare -U", "Run in a new user namespace", SWITCH),
)
HELP = Flag("--help", "Print this help", SWITCH)

_JSON = Flag("--json -j", "Answer in JSON", SWITCH)
_NAMES = Flag("--name -n", "Name to give; may be repeated", LIST)
_NEW_ID = Flag("--id -i", "ID to use instead of a random one")
_LABEL = Flag("--label -l", "SELinux label for mounting")
_READ_ONLY = Flag("--readonly -r", "The layer is not meant to be written to", SWITCH)
_METADATA = (
    Flag("--metadata -m", "Metadata"),
    Flag("--metadata-file -f", "File that holds the metadata"),
)
_READ_FILE = Flag("--file -f", "Read from this file instead of standard input")
_WRITE_FILE = Flag("--file -f", "Write to this file instead of standard output")
_FORCE = Flag("--force -f", "Unmount whatever the mount count", SWITCH)
_ONLY_IDS = Flag("--quiet -q", "Print IDs only", SWITCH)
_HASH = Flag("--hash-method", "How equal files are found: crc, size, sha256", default="crc")
_MAPS = (
    Flag("--hostuidmap", "Do not map UIDs", SWITCH),
    Flag("--hostgidmap", "Do not map GIDs", SWITCH),
    Flag("--uidmap", "UID map: container:host:size[:...]"),
    Flag("--gidmap", "GID map: container:host:size[:...]"),
    Flag("--subuidmap", "User whose subordinate UIDs are mapped"),
    Flag("--subgidmap", "Group whose subordinate GIDs are mapped"),
)


class Command:
    """One row of the table."""

    __slots__ = ("flags", "handler", "kind", "least", "most", "names", "needs_store", "pattern", "summary")

    def __init__(
        self,
        names: str,
        pattern: str,
        least: int,
        most: int,
        flags: tuple[Flag, ...],
        handler: str,
        summary: str,
        kind: str = "",
        *,
        needs_store: bool = True,
    ) -> None:
        """`handler` is "module:function"; `kind` tells functions that answer for several kinds which is meant."""
        self.names = tuple(names.split())
        self.pattern = pattern
        self.least = least
        self.most = most
        self.flags = flags
        self.handler = handler
        self.summary = summary
        self.kind = kind
        self.needs_store = needs_store

    def load(self) -> Handler:
        """The function that answers the command."""
        module, _, function = self.handler.partition(":")
        handler: Handler = getattr(__import__(f"orlop.dropin.{module}", fromlist=[function]), function)
        return handler


def _data_commands(kind: str) -> tuple[Command, ...]:
    """The commands for the data items of one kind of object. Layers keep neither sizes nor digests."""
    object = f"{kind}NameOrID"
    one = f"an {kind}" if kind == "image" else f"a {kind}"

    def row(name: str, arguments: int, flags: tuple[Flag, ...], function: str, summary: str) -> Command:
        pattern = object if arguments == 1 else f"{object} key"
        names = f"{name} {name.replace('-', '')}"
        return Command(names, pattern, arguments, arguments, flags, f"data:{function}", summary, kind)

    rows = (
        row(f"list-{kind}-data", 1, (_JSON,), "list_items", f"List the data items of {one}"),
        row(f"get-{kind}-data", 2, (_WRITE_FILE,), "get_item", f"Get a data item of {one}"),
        row(f"set-{kind}-data", 2, (_READ_FILE,), "set_item", f"Set a data item of {one}"),
    )
    if kind == "layer":
        return rows
    return (
        *rows,
        row(f"get-{kind}-data-size", 2, (), "get_size", f"Get the size of a data item of {one}"),
        row(f"get-{kind}-data-digest", 2, (), "get_digest", f"Get the digest of a data item of {one}"),
        row(f"get-{kind}-dir", 1, (), "get_directory", f"Get the directory of {one}"),
        row(
            f"get-{kind}-run-dir",
            1,
            (),
            "get_run_directory",
            f"Get the directory of {one} below the run root",
        ),
    )


# One row a command, as a table reads; `ruff format` would give each five lines.
# fmt: off
COMMANDS: tuple[Command, ...] = (
    Command("create-layer createlayer", "[parentLayerNameOrID]", 0, 1,
            (_NAMES, _NEW_ID, _LABEL, _READ_ONLY, _JSON, *_MAPS), "creating:create_layer", "Create a layer"),
    Command("import-layer importlayer", "[parentLayerNameOrID]", 0, 1,
            (_NAMES, _NEW_ID, _LABEL, _READ_ONLY, _JSON, *_MAPS, _READ_FILE), "creating:import_layer",
            "Create a layer and fill it with a diff"),
    Command("create-storage-layer", "[parentLayerNameOrID]", 0, 1,
            (_NEW_ID, _LABEL, _READ_ONLY, _JSON, *_MAPS), "creating:create_storage_layer",
            "Create a layer in the driver only, without a record"),
    Command("create-image createimage", "[topLayerNameOrID]", 0, 1,
            (_NAMES, _NEW_ID, Flag("--digest -d", "Digest of the image"), *_METADATA, _JSON),
            "creating:create_image", "Create an image from a layer"),
    Command("create-container createcontainer", "imageNameOrID", 1, 1,
            (_NAMES, _NEW_ID, *_METADATA, Flag("--volatile", "The container need not survive a crash", SWITCH),
             _JSON, *_MAPS), "creating:create_container", "Create a container from an image"),
    Command("layers", "", 0, 0,
            (Flag("--tree -t", "Show who is whose parent", SWITCH), Flag("--quick -q", "Print IDs only", SWITCH),
             _JSON), "listing:layers", "List layers"),
    Command("images", "", 0, 0, (_ONLY_IDS, _JSON), "listing:images", "List images"),
    Command("containers", "", 0, 0, (_JSON,), "listing:containers", "List containers"),
    Command("storage-layers", "", 0, 0, (_JSON,), "listing:storage_layers", "List the layers that the driver holds"),
    Command("images-by-digest", "digest", 1, 1, (_ONLY_IDS, _JSON), "listing:images_by_digest",
            "List images that have a digest"),
    Command("layer", "layerNameOrID [...]", 1, UNLIMITED, (_JSON,), "records:show", "Show a layer", "layer"),
    Command("image", "imageNameOrID [...]", 1, UNLIMITED, (_JSON,), "records:show", "Show an image", "image"),
    Command("container", "containerNameOrID [...]", 1, UNLIMITED, (_JSON,), "records:show", "Show a container",
            "container"),
    Command("layer-parent-owners", "layerNameOrID [...]", 1, UNLIMITED, (_JSON,), "records:parent_owners",
            "List owners above a mounted layer that its maps do not cover", "layer"),
    Command("container-parent-owners", "containerNameOrID [...]", 1, UNLIMITED, (_JSON,), "records:parent_owners",
            "List owners above a mounted container that its maps do not cover", "container"),
    Command("exists", "nameOrID [...]", 1, UNLIMITED,
            (Flag("--quiet -q", "Print nothing", SWITCH), Flag("--layer -l", "Succeed for layers only", SWITCH),
             Flag("--image -i", "Succeed for images only", SWITCH),
             Flag("--container -c", "Succeed for containers only", SWITCH), _JSON),
            "records:exists", "Tell whether a layer, image or container is there"),
    Command("metadata", "nameOrID [...]", 1, UNLIMITED,
            (Flag("--quiet -q", "Print the metadata only", SWITCH), _JSON), "names:metadata",
            "Show the metadata of layers, images or containers"),
    Command("set-metadata setmetadata", "nameOrID", 1, 1, _METADATA, "names:set_metadata",
            "Set the metadata of a layer, image or container"),
    Command("get-names getnames", "nameOrID", 1, 1, (_JSON,), "names:get_names",
            "List the names of a layer, image or container"),
    Command("add-names addnames", "nameOrID", 1, UNLIMITED, (_NAMES, _JSON), "names:add_names",
            "Give names to a layer, image or container"),
    Command("remove-names removenames", "nameOrID", 1, UNLIMITED, (_NAMES, _JSON), "names:remove_names",
            "Take names from a layer, image or container"),
    Command("set-names setnames", "nameOrID", 1, UNLIMITED, (_NAMES, _JSON), "names:set_names",
            "Replace the names of a layer, image or container"),
    *_data_commands("layer"),
    *_data_commands("image"),
    *_data_commands("container"),
    Command("mount", "layerOrContainerNameOrID [...]", 1, UNLIMITED,
            (Flag("--read-only --ro -r", "Mount images, read-only", SWITCH), _LABEL,
             Flag("--opt -o", "Accepted and ignored"), _JSON), "mounts:mount", "Mount layers, containers or images"),
    Command("unmount umount", "layerOrContainerNameOrID [...]", 1, UNLIMITED, (_FORCE, _JSON), "mounts:unmount",
            "Unmount layers, containers or images"),
    Command("mounted", "layerOrContainerNameOrID [...]", 1, UNLIMITED, (_JSON,), "mounts:mounted",
            "Tell which layers or containers are mounted"),
    Command("changes", "layerNameOrID [referenceLayerNameOrID]", 1, 2, (_JSON,), "diffs:changes",
            "List what differs between two layers"),
    Command("diff", "layerNameOrID [referenceLayerNameOrID]", 1, 2,
            (_WRITE_FILE, Flag("--uncompressed -u", "Do not compress", SWITCH),
             Flag("--gzip -c", "Compress with gzip", SWITCH),
             Flag("--bzip2 --bz2 -b", "Compress with bzip2 (refused: it can only be read)", SWITCH),
             Flag("--xz -x", "Compress with xz (refused: it can only be read)", SWITCH)),
            "diffs:diff", "Write what differs between two layers as a tar archive"),
    Command("diffsize diff-size", "layerNameOrID [referenceLayerNameOrID]", 1, 2, (), "diffs:diff_size",
            "Tell how large the difference between two layers is"),
    Command("applydiff apply-diff", "layerNameOrID", 1, 1, (_READ_FILE,), "diffs:apply_diff",
            "Fill a layer from a tar archive"),
    Command("applydiff-using-staging-dir", "layerNameOrID directory", 2, 2, (), "diffs:apply_diff_staged",
            "Fill a layer with the files of a directory, as a partial pull does"),
    Command("copy", "[sourceLayerNameOrID:]path [...] [targetLayerNameOrID:]path", 2, UNLIMITED,
            (Flag("--chown -o", "Owner of the copies, UID[:GID] as the target knows them"), _JSON), "copying:copy",
            "Copy files or directories into or out of layers"),
    Command("delete", "nameOrID [...]", 1, UNLIMITED, (_JSON,), "deleting:delete",
            "Delete a layer, image or container without any check"),
    Command("delete-layer deletelayer", "layerNameOrID [...]", 1, UNLIMITED, (_JSON,), "deleting:delete",
            "Delete a layer that nothing needs", "layer"),
    Command("delete-image deleteimage", "imageNameOrID [...]", 1, UNLIMITED,
            (Flag("--test -t", "Only tell what would be deleted", SWITCH), _JSON), "deleting:delete_image",
            "Delete an image and the layers that nothing else needs"),
    Command("delete-container deletecontainer", "containerNameOrID [...]", 1, UNLIMITED, (_JSON,),
            "deleting:delete", "Delete a container and its layer", "container"),
    Command("status", "", 0, 0, (_JSON,), "maintenance:status", "Show the state of the store and its driver"),
    Command("version", "", 0, 0, (_JSON,), "maintenance:version", "Show the version"),
    Command("wipe", "", 0, 0, (_JSON,), "maintenance:wipe", "Delete all containers, images and layers"),
    Command("check", "", 0, 0,
            (Flag("--quick -q", "Do not compare the files of layers with what was put into them", SWITCH),
             Flag("--repair -r", "Put right what is wrong, or remove it", SWITCH),
             Flag("--force -f", "Repair, and also change or remove containers", SWITCH),
             Flag("--max -m", "Age from which on a layer that nothing needs is reported", default="24h"), _JSON),
            "checking:check", "Look for damage"),
    Command("gc", "", 0, 0, (_JSON,), "maintenance:gc", "Take away what belongs to nothing"),
    Command("dedup", "", 0, 0, (_HASH, _JSON), "maintenance:dedup", "Let equal files of images share their blocks"),
    Command("shutdown", "", 0, 0, (_FORCE, _JSON), "maintenance:shutdown", "Shut the driver down"),
    Command("config", "[file]", 0, 1, (), "maintenance:config", "Show the effective configuration"),
    Command("unshare", "[command [...]]", 0, UNLIMITED, (), "namespace:unshare",
            "Run a command in a user namespace"),
    Command("completion", "bash|zsh|fish", 1, UNLIMITED, (), "completion:complete",
            "Print a script that completes words of this program in a shell", needs_store=False),
)
# fmt: on


def find(word: str) -> Command | None:
    """The command of that name or alias."""
    for command in COMMANDS:
        if word in command.names:
            return command
    return None
