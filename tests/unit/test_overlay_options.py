"""Options of the overlay driver: texts to values, and refusals in the peers' words (spec/config.md 12)."""

from pathlib import Path

import pytest

from orlop.drivers.overlay import options
from orlop.errors import ConfigError, NotSupported


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("42", 42),
        ("42b", 42),
        ("10k", 10 << 10),
        ("10K", 10 << 10),
        ("10kb", 10 << 10),
        ("10KiB", 10 << 10),
        ("1.5g", 3 << 29),
        ("2 m", 2 << 20),
        ("1t", 1 << 40),
        ("1P", 1 << 50),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert options.parse([f"overlay.size={text}"]).size_bytes == size


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("overlay.size=10x", "invalid suffix: 'x'"),
        ("size=1kbb", "invalid suffix: 'kbb'"),
        ("size=k", "invalid size: 'k'"),
        ("size=-1", "invalid size: '-1'"),
        ("size=1.2.3", 'strconv.ParseFloat: parsing "1.2.3": invalid syntax'),
        ("size=1_0", 'strconv.ParseFloat: parsing "1_0": invalid syntax'),
        ("inodes=1k", 'strconv.ParseUint: parsing "1k": invalid syntax'),
        ("inodes=", 'strconv.ParseUint: parsing "": invalid syntax'),
        (
            "inodes=18446744073709551616",
            'strconv.ParseUint: parsing "18446744073709551616": value out of range',
        ),
        ("inodes=\u0663", 'strconv.ParseUint: parsing "\u0663": invalid syntax'),
        ("force_mask=rw", 'strconv.ParseInt: parsing "rw": invalid syntax'),
        ("force_mask=789", 'strconv.ParseInt: parsing "789": invalid syntax'),
        ("skip_mount_home=yes", 'strconv.ParseBool: parsing "yes": invalid syntax'),
        ("use_composefs=", 'strconv.ParseBool: parsing "": invalid syntax'),
        ("imagestore=here", 'overlay: image path "here" is not absolute.  Can not be relative'),
        (
            "imagestore=/nowhere",
            "overlay: can't stat imageStore dir /nowhere: stat /nowhere: no such file or directory",
        ),
        ("imagestore=/etc/passwd", 'overlay: image path "/etc/passwd" must be a directory'),
        (
            "mount_program=/nowhere",
            'overlay: can\'t stat program "/nowhere": stat /nowhere: no such file or directory',
        ),
        ("overlay.overlay.size=1", "overlay: unknown option overlay.overlay.size"),
        ("vfs.size=1", "overlay: unknown option vfs.size"),
        ("size", "unable to parse key/value option: size"),
    ],
)
def test_refusals(option: str, said: str) -> None:
    with pytest.raises(ConfigError) as failure:
        options.parse([option])
    assert failure.value.peer == said


def test_values(tmp_path: Path) -> None:
    stores = [tmp_path / name for name in ("one", "two", "three")]
    for store in stores:
        store.mkdir()
    found = options.parse(
        [
            "overlay.mountopt=nodev",
            "OVERLAY.MountOpt = metacopy=on,nodev",
            "overlay2.inodes=7",
            f".imagestore={stores[0]},,{stores[1]}/",
            f"overlay.additionalimagestore={stores[2]}",
            "imagestore=",
            "additionallayerstore=",
            "override_kernel_check=whatever",
            "ignore_chown_errors=T",
            "skip_mount_home=1",
            "use_composefs=true",
            "mount_program=/bin/true",
        ]
    )
    assert found.mount_options == ["metacopy=on", "nodev"]
    assert found.inodes == 7
    assert found.image_stores == list(map(str, stores))
    assert found.ignore_chown_errors
    assert found.skip_mount_home
    assert found.use_composefs
    assert found.mount_program == "/bin/true"
    assert found.force_mask is None
    assert options.parse([]).mount_options == []


@pytest.mark.parametrize(
    ("text", "mask"), [("shared", 0o755), ("private", 0o700), ("0750", 0o750), ("711", 0o711)]
)
def test_masks(text: str, mask: int) -> None:
    assert options.parse([f"overlay.force_mask={text}"]).force_mask == mask


def test_what_is_not_there_yet_is_refused_by_name() -> None:
    """Taking such a store for an ordinary one would show its layers wrong."""
    with pytest.raises(NotSupported, match=r"overlay\.additionallayerstore"):
        options.parse(["overlay.additionallayerstore=/:ref"])
