"""How much is tried: little here, so that the suite stays quick, and more where somebody asks for it."""

from __future__ import annotations

import os


def examples(count: int) -> int:
    """``count`` examples of a property, SYNCCTL_EXAMPLES times."""
    return count * int(os.environ.get("SYNCCTL_EXAMPLES", "1"))
