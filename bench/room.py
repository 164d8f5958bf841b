"""Whether there is room for a tree and its copies."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from bench import proc
from bench.cases import FIRST, Case

if TYPE_CHECKING:
    from pathlib import Path

    from bench.trees import Tree

MEMORY_LEFT = 1 << 30
"""What the programs themselves need, beside a tree in memory."""


def file_system(place: Path) -> str:
    """Its type, as stat(1) has it."""
    return subprocess.run(["stat", "-f", "-c", "%T", place], capture_output=True, text=True, check=True).stdout.strip()


def lacking(tree: Tree, cases: list[Case], place: Path) -> str | None:
    """Why these cases cannot be measured there."""
    kind = file_system(place)
    if cases[0].disk and kind == "tmpfs":
        return f"{place} is in memory; name a directory on a disk with --disk"
    copies = 1 + max(1 if case.step == FIRST else len(case.contenders) for case in cases)
    status = os.statvfs(place)
    wanted, free = copies * tree.each_bytes, status.f_bavail * status.f_frsize
    if kind == "tmpfs":
        free = min(free, proc.meminfo_bytes("MemAvailable") - MEMORY_LEFT)
    if free < wanted:
        return f"{place} has room for {max(0, free) / 1e9:.1f} GB of {wanted / 1e9:.1f}"
    inodes = copies * tree.each_inodes
    if status.f_files and status.f_favail < inodes:
        return f"{place} has room for {status.f_favail:,} files of {inodes:,}"
    return None
