"""Frozen values that rooms hand to each other: no files, no clocks (but `Timestamp.now`), no environment."""
