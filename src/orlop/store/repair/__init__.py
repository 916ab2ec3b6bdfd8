"""Putting a store right: the least that mends, and a plan before it is done (`spec/check-repair.md` 5)."""
