"""The package, its modules, the crate and the changelog name one version."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def main() -> int:
    """The exit status."""
    package = tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"]
    crate = tomllib.loads(Path("core/Cargo.toml").read_text())["package"]["version"]
    module = re.search(r'^VERSION = "(.+)"$', Path("proto/version.py").read_text(), re.MULTILINE)
    changelog = re.search(r"^## \[(\d[^\]]*)\]", Path("CHANGELOG.md").read_text(), re.MULTILINE)
    found = {
        "pyproject.toml": package,
        "core/Cargo.toml": crate,
        "proto/version.py": module and module[1],
        "CHANGELOG.md": changelog and changelog[1],
    }
    if set(found.values()) == {package}:
        return 0
    for name, version in found.items():
        print(f"{name}: {version}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
