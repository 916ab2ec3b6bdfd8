"""Variables of the environment that are orlop's own. Together with the rest of this room, the only reader of them."""

from __future__ import annotations

import os


def durability() -> str | None:
    """ORLOP_DURABILITY: "full" or "none"; None if it is not set."""
    return os.environ.get("ORLOP_DURABILITY") or None
