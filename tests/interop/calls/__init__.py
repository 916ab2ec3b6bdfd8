"""The calls that are made with both programs (test_dropin_peer.py), chapter by chapter, each on a new store.

What differs on purpose stands here with the reason: the newer release that `spec/cli.md` describes (1.60) answers
otherwise than Debian's 1.43, or a defect is mended. Such a row pins our answer, and fails if the two agree after all.
"""

from calls import contents, data, deleting, grammar, objects

CHAPTERS = {
    "before": grammar.BEFORE,
    "flags": grammar.FLAGS,
    "creating": objects.CREATING,
    "showing": objects.SHOWING,
    "data": data.DATA,
    "mounts": contents.MOUNTS,
    "diffs": contents.DIFFS,
    "maps": objects.MAPS,
    "deleting": deleting.DELETING,
}
