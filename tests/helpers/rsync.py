"""What rsync would itemize, and what we did, in one form."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from tests.helpers.oracle import RSYNC

if TYPE_CHECKING:
    from pathlib import Path


def itemized_by_rsync(source: Path, destination: Path) -> list[str]:
    """Of a mirroring dry run, a line each.  Tabs it leaves as they are; we escape them too."""
    ended = subprocess.run(
        [str(RSYNC), "-rlptn", "--delete", "--out-format=%i %n%L", f"{source}/", f"{destination}/"],
        capture_output=True,
        check=True,
    )
    lines = os.fsdecode(ended.stdout).replace("\t", "\\#011").splitlines()
    return [line for line in lines if not line.startswith("created directory")]


def itemized_by_us(printed: str) -> list[str]:
    """The lines of ``--itemize``, without the last, which sums up; sent (``<``) as rsync has it of local copies."""
    lines = printed.splitlines()[:-1]
    return [">" + line[1:] if line.startswith("<") else line for line in lines]
