"""Bytes to model and back, pure: nothing here opens a file or asks whether a path exists."""
