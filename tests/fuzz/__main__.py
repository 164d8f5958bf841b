"""``python -m tests.fuzz [SECONDS] [--keep]``: every target for so long, under libFuzzer, one after the other.

The crate's run in a binary of core/fuzz, built by the stable compiler with its coverage passes; the Python ones under
atheris, where it can be had.  What is found goes to build/fuzz/found; ``--keep`` puts the least of it that reaches as
much into the corpora of the tree, as far as it is small.  The exit status is the number of targets that failed.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.fuzz.targets import TARGETS

TREE = Path(__file__).resolve().parents[2]
BUILT = TREE / "build/fuzz"
CRATE_CORPUS = TREE / "core/fuzz/corpus"
PYTHON_CORPUS = TREE / "tests/fuzz/corpus"

INPUT_MAX_S = 1
"""Of processor time: what took as long by the clock runs once more, alone."""
KEPT_MAX = 2048
"""Bytes of an input that is kept in the tree."""
CORPUS_MAX = 24 << 10
"""Bytes of one target's corpus there."""
INPUTS_MAX = 128

_COVERAGE = (
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
)
# The crate is linked without Python, as for its own tests: see the Makefile.
_LINK = ("-Clink-arg=-Wl,--unresolved-symbols=ignore-all", "-Clink-arg=-Wl,-z,lazy", "-Crelro-level=partial")
_LINK_DARWIN = ("-Clink-arg=-undefined", "-Clink-arg=dynamic_lookup")


class Target(NamedTuple):
    """One fuzzer: its name, the command that runs it, and where its corpus is."""

    name: str
    command: list[str]
    environ: dict[str, str]
    corpus: Path


def crate_targets() -> list[Target]:
    """Built.  Raises CalledProcessError."""
    host = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout
    triple = host.partition("host: ")[2].split()[0]
    link = _LINK_DARWIN if sys.platform == "darwin" else _LINK
    environ = {
        **os.environ,
        "PYO3_BUILD_EXTENSION_MODULE": "1",
        "PYO3_PYTHON": sys.executable,
        "CARGO_TARGET_DIR": str(BUILT / "target"),
        "CARGO_ENCODED_RUSTFLAGS": "\x1f".join((*_COVERAGE, *link)),
    }
    build = ["cargo", "build", "--quiet", "--locked", "--release", "--target", triple]
    subprocess.run(build, cwd=TREE / "core/fuzz", env=environ, check=True)
    binary = str(BUILT / "target" / triple / "release/syncctl-fuzz")
    names = sorted(path.name for path in CRATE_CORPUS.iterdir())
    return [Target(name, [binary], {"FUZZ_TARGET": name}, CRATE_CORPUS / name) for name in names]


def python_targets() -> list[Target]:
    """None, and a word about it, where atheris does not run."""
    runs = [sys.executable, "-c", "import atheris"]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--group", "fuzz"]
    if not any(
        subprocess.run(words, cwd=TREE, capture_output=True, check=False).returncode == 0 for words in (runs, install)
    ):
        print("skipped: the Python targets (there is no atheris for this interpreter)")
        return []
    command = [sys.executable, "-m", "tests.fuzz.guided"]
    return [Target(name, [*command, name], {}, PYTHON_CORPUS / name) for name in TARGETS]


def run(target: Target, seconds: int) -> bool:
    """Fuzz it; whether it held."""
    found = BUILT / "found" / target.name
    found.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={seconds}", "-timeout=30", f"-report_slow_units={INPUT_MAX_S}", "-rss_limit_mb=2048"]
    words = [*limits, "-max_len=8192", "-print_final_stats=1", f"-artifact_prefix={BUILT}/{target.name}-", str(found)]
    environ = {**os.environ, **target.environ}
    done = subprocess.run(
        [*target.command, *words, str(target.corpus)],
        cwd=TREE, env=environ, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    stats = dict(re.findall(r"stat::(\w+):\s+(\d+)", done.stderr))
    if done.returncode != 0:
        print(f"{target.name}: FAILED\n{done.stderr[-4000:]}")
        return False
    slow = [path for path in BUILT.glob(f"{target.name}-slow-unit-*") if processor_s(target, path) > INPUT_MAX_S]
    executed, reached = stats.get("number_of_executed_units", "?"), len(list(found.iterdir()))
    print(f"{target.name}: {executed} inputs in {seconds} s, {reached} of them kept, {len(slow)} too slow {slow or ''}")
    return not slow


def processor_s(target: Target, path: Path) -> float:
    """What the target takes for one input, its start included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environ = {**os.environ, **target.environ}
    subprocess.run([*target.command, str(path)], cwd=TREE, env=environ, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def keep(target: Target) -> None:
    """What was found, into the tree: of the crate's, the least that reaches as much; of many every so many-th."""
    found = BUILT / "found" / target.name
    with tempfile.TemporaryDirectory() as least:
        if target.environ:  # atheris does not merge
            merge = [*target.command, "-merge=1", f"-max_len={KEPT_MAX}", least, str(target.corpus), str(found)]
            environ = {**os.environ, **target.environ}
            subprocess.run(merge, cwd=TREE, env=environ, capture_output=True, check=True)
            found = Path(least)
        room = CORPUS_MAX - sum(path.stat().st_size for path in target.corpus.iterdir())
        most = max(1, INPUTS_MAX - len(list(target.corpus.iterdir())))
        inputs = sorted(found.iterdir(), key=lambda path: path.stat().st_size)
        for path in inputs[:: max(1, math.ceil(len(inputs) / most))]:
            room -= path.stat().st_size
            if room > 0:
                shutil.copy(path, target.corpus / path.name[:16])


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("seconds", type=int, nargs="?", default=20, help="of each target")
    parser.add_argument("--keep", action="store_true", help="add what was found to the corpora of the tree")
    parser.add_argument("--only", action="append", help="this target (several: give it again)")
    arguments = parser.parse_args()
    targets = [*crate_targets(), *python_targets()]
    chosen = [target for target in targets if not arguments.only or target.name in arguments.only]
    failed = [target.name for target in chosen if not run(target, arguments.seconds)]
    if arguments.keep:
        for target in chosen:
            keep(target)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
