"""Blobs that can be pulled in part: making them, and layers from them (`spec/chunked.md`). No locks, no records."""
