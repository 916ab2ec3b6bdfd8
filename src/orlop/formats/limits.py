"""Every length that an outsider chooses, named: what it bounds, why this much, who else allows how much.

A claimed length never allocates memory by itself, whatever its limit: what it counts is read in blocks, and the
stream ends before the claim does. A value past its limit raises `LimitExceeded`. `docs/limits.md` is made from
this file.
"""

KIB = 1024
MIB = 1024 * KIB

# --- tar streams --------------------------------------------------------------------------------------------

META_DATA_MAX = MIB
"""Data of one PAX header or one GNU long name. A PAX header of hundreds of megabytes was CVE-2022-2879; the peers
stop at the same 1 MiB, the kernel at 4 KiB for a path and 64 KiB for an extended attribute."""

SEGMENT_MAX = 8 * MIB
"""All that stands in front of one entry's payload: padding, every meta header, GNU sparse extensions, the header.
tar-split wants it in one piece, so it is held in memory. A long name, a long link name and PAX records of full
length fit twice; the peers have no limit and hold whatever comes."""

SPARSE_MAP_MAX = MIB
"""Text of the map at the head of a PAX 1.0 sparse member, and of any sparse map as numbers need memory many times
their text. An unbounded map was CVE-2025-58183; the peers took this limit then."""

RECORDED_PAYLOAD_MAX = 256 * MIB
"""Payload that the tar-split record of one layer keeps itself, because no file of the layer can give it back byte
for byte: sparse members, payload of whiteouts. Past it such entries are recorded as the peers do it, whose diff is
then another stream than the one applied. Peers hold a whole record in memory when they copy it."""

OWNER_MAX = 2**32 - 2
"""Highest user and group id. 2^32-1 means "leave it" to chown, and larger ones wrap: 2^40 became root
(CVE-2024-40635)."""

# --- tar-split records --------------------------------------------------------------------------------------

TRAILING_SEGMENT_MAX = MIB
"""What follows the end of an archive is recorded in pieces of this size, so that a gigabyte of padding needs no
gigabyte of memory (CVE-2017-14992). The peers write pieces of the same size."""

RECORD_ENTRY_MAX = 16 * MIB
"""One JSON object of a record: a segment of SEGMENT_MAX in base64 and half as much to spare."""

# --- records ------------------------------------------------------------------------------------------------

RECORDS_FILE_MAX = 256 * MIB
"""One file of records. Twenty thousand layers are 12 MiB; decoded, records need several times their text. The peers
have no limit."""

RECORD_VALUES_MAX = 8_000_000
"""Values in one file of records: texts, numbers, lists, maps. Each takes some 60 bytes in memory, so that 256 MiB of
empty lists would take 8 GiB. Twenty thousand layers are half a million."""

RECORDS_ASIDE_MAX = 10_000
"""Records of one file that are set aside as they do not fit. With more than that the file is something else."""

# (`model/record.py` has the limit of nesting inside of a record.)

# What callers may put into a record. Every program that shares the store loads all of it each time; what is found on
# disk is loaded whatever its size. The peers have no limits (CVE-2020-1702 is a manifest that was read whole).

NAME_MAX = 64 * 1024
"""One name, in bytes. Image references end at 4 KiB in every registry."""

NAMES_MAX = 10_000
"""Names of one record. Engines rename by reading all names and writing all names."""

METADATA_MAX = 16 * MIB
"""The caller's own text of a record, in bytes. Engines keep a few hundred."""

DATA_ITEM_MAX = 256 * MIB
"""One big-data item of an image or container, which readers take into memory whole. Those of layers are streams."""

# --- files of images ----------------------------------------------------------------------------------------

ACCOUNTS_FILE_MAX = 8 * MIB
"""/etc/passwd or /etc/group of an image whose users are counted for an automatic user namespace. A hundred
thousand users fit. The peers read whatever is there, and more than they have memory if it is sparse."""

# --- configuration ------------------------------------------------------------------------------------------

CONFIG_FILE_MAX = MIB
"""One configuration file, in bytes. Those of distributions are 10 KiB, nearly all of it comments. Each command
reads the file, and whoever sets CONTAINERS_STORAGE_CONF chooses which. The peers have no limit."""

CONFIG_DEPTH_MAX = 32
"""How deep tables and lists of a configuration file may lie in each other, and how many parts a dotted key may have.
The deepest that means anything is three. Python's own reader needs a call for each level, and for dotted keys time
that grows with the square of their length."""

# --- compressed streams -------------------------------------------------------------------------------------

ZSTD_WINDOW_LOG_MAX = 27
"""Window of a zstd frame: 128 MiB, what the `zstd` program accepts unless told otherwise. Frames may claim 2^41."""

XZ_MEMORY_MAX = 128 * MIB
"""Memory of the xz decoder. `xz -9` needs 65 MiB to be read; a dictionary may claim 4 GiB."""

# --- partial pulls ------------------------------------------------------------------------------------------

TOC_MAX = 150 * MIB
"""Table of contents of a zstd:chunked blob, as it comes and as JSON. The peers take the same limit for what comes,
and believe what is claimed of the other. An entry is some 260 bytes, so that half a million fit."""

TAR_SPLIT_LINES_MAX = 2048 * MIB
"""Lines of the tar-split record in such a blob, which is read as a stream. An entry is about 1,000 bytes. The peers
have no limit."""

# --- unpacking ----------------------------------------------------------------------------------------------

AUFS_LINKS_MAX = 65_536
"""Files below `.wh..wh.plnk` that are remembered for hard links to them. aufs makes one for each inode with links;
layers with any have been rare since 2015, and the peers have no limit."""

# --- changes ------------------------------------------------------------------------------------------------

CHANGED_PATHS_MAX = 512 * MIB
"""Paths of one list of changes, all together. Five million files have as much. Only processes that go down step by
step make longer paths than the 4096 bytes that a layer is unpacked with: ten thousand long names are 13 GB."""
