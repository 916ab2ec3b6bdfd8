"""The calls that are made with both programs (test_dropin_peer.py), chapter by chapter, each on a new store.

What differs on purpose stands here with the reason: the newer release that `spec/cli.md` describes (1.60) answers
otherwise than Debian's 1.43, or a defect is mended. Such a row pins our answer, and fails if the two agree after all.
"""

from calls import contents, damage, data, deleting, grammar, objects, opening, spellings, stores, young

CHAPTERS = {
    "before": grammar.BEFORE,
    "flags": grammar.FLAGS,
    "around": grammar.AROUND,
    "spellings": spellings.SPELLINGS,
    "opening": opening.OPENING,
    "overlay": opening.OVERLAY,
    "creating": objects.CREATING,
    "showing": objects.SHOWING,
    "data": data.DATA,
    "mounts": contents.MOUNTS,
    "diffs": contents.DIFFS,
    "kinds": contents.KINDS,
    "maps": objects.MAPS,
    "deleting": deleting.DELETING,
    "lost": damage.LOST,
    "names": damage.NAMES,
    "additional": stores.ADDITIONAL,
    "copying": young.COPYING,
    "young": young.YOUNG,
}
