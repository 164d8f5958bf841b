"""One of the Python targets under atheris: ``python -m tests.fuzz.guided TARGET [libFuzzer's own words]``."""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

if __name__ == "__main__":
    with atheris.instrument_imports(include=["proto", "agentd", "tomllib", "json"]):
        from tests.fuzz.targets import TARGETS

    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()
