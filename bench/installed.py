"""Trees of real files: what is installed on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FEWEST, FEWEST_SOURCES, MOST_SOURCES = 30_000, 5_000, 10_000
_SOURCE = (".c", ".h", ".hpp", ".py", ".pyi", ".rs", ".toml", ".txt")


def build(root: Path) -> str | None:
    """Copy Python's and Rust's trees.  Says so when they are too small for the case."""
    root.mkdir()
    for name, tree in (("python", _python()), ("rust", _rust())):
        if tree is not None:
            shutil.copytree(tree, root / name, symlinks=True, ignore=shutil.ignore_patterns("site-packages"))
    files = sum(len(files) for _, _, files in os.walk(root))
    return None if files >= FEWEST else f"Python and Rust have {files:,} files installed here; {FEWEST:,} are wanted"


def build_sources(root: Path) -> str | None:
    """Copy text from where sources are installed, as it lies there.  Says so when there is too little of it."""
    root.mkdir()
    files = 0
    for source in _sources():
        to = root / source.relative_to("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, to)
        files += 1
        if files == MOST_SOURCES:
            break
    return (
        None if files >= FEWEST_SOURCES else f"{files:,} source files are installed here; {FEWEST_SOURCES:,} are wanted"
    )


def _sources() -> Iterator[Path]:
    for top in (_python(), Path("/usr/include"), _rust()):
        for directory, below, names in os.walk(top or "/nowhere"):
            below.sort()
            for name in sorted(names):
                path = Path(directory, name)
                if path.suffix in _SOURCE and not path.is_symlink():
                    yield path


def _python() -> Path:
    return Path(sys.base_prefix, "lib", f"python{sys.version_info[0]}.{sys.version_info[1]}")


def _rust() -> Path | None:
    try:
        ended = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return Path(ended.stdout.strip())
