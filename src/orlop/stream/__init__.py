"""The pieces of the byte pipeline: measure, decompress, parse, unpack, pack. No locks, no records."""
