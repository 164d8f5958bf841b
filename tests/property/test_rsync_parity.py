"""Any pair of trees, synced by the engines and by rsync: equal trees and equal itemized lines, as root and as a user.

Left out is where we differ on purpose: docs/protocol.md, "Where rsync does otherwise".
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.by_user import USER
from tests.helpers.effort import examples

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = st.sampled_from(["a", "b", "c", "a.o", "keep", "b.x"])
# Nanoseconds apart only from each other's second: rsync compares seconds.
TIMES = st.sampled_from([10**18 + 1, 1_500_000_000 * 10**9, -5 * 10**9 + 7])
TARGETS = st.sampled_from(["a", "nowhere", "../c", "/etc/passwd"])
FILTERS = st.sampled_from([(), (), ("*.o",), ("keep",), ("b/",), ("/a",), ("c/a", "*.x"), ("keep", "a.o")])


def trees(files: list[int], directories: list[int]) -> st.SearchStrategy[dict[str, Any]]:
    leaf = st.one_of(
        st.tuples(st.just("f"), st.sampled_from(["", "x", "y", "xx"]), st.sampled_from(files), TIMES),
        st.tuples(st.just("l"), TARGETS, st.just(0), TIMES),
        st.tuples(st.just("p"), st.just(""), st.just(0o600), TIMES),
    )
    modes = st.sampled_from(directories)
    return st.recursive(
        st.dictionaries(NAMES, leaf, max_size=3),
        lambda inner: st.dictionaries(
            NAMES, leaf | st.tuples(st.just("d"), inner, modes, TIMES), min_size=1, max_size=5
        ),
        max_leaves=8,
    )


FILES = [0o644, 0o600, 0o444, 0o755, 0o4755]
DIRECTORIES = [0o755, 0o700, 0o555, 0o2775]


@st.composite
def tasks(draw: st.DrawFn) -> dict[str, Any]:
    source = draw(trees(FILES, DIRECTORIES))
    destination = draw(trees([*FILES, 0], DIRECTORIES))
    for name in list(source):
        if draw(st.booleans()):
            destination[name] = source[name]
    roots = st.sampled_from([0o755, 0o700, 0o555])
    dry_run = draw(st.booleans())
    return {
        "source": {"": ["d", source, draw(roots), draw(TIMES)]},
        "destination": {"": ["d", destination, draw(roots), draw(TIMES)]},
        "filters": draw(FILTERS),
        "delete": draw(st.booleans()),
        "checksum": draw(st.booleans()),
        "dry_run": dry_run,
        "again": not dry_run,
    }


class Worker:
    """tests.helpers.joined as a process, as ``user``."""

    def __init__(self, user: int | None) -> None:
        self.base = tempfile.mkdtemp(prefix="syncctl-parity-")
        if user is not None:
            os.chown(self.base, user, user)
        command = [sys.executable, "-m", "tests.helpers.joined", *([] if user is None else [str(user)])]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, umask=0o022,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip

    def compare(self, task: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({**task, "base": f"{self.base}/pair"}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the worker died"
        found: dict[str, Any] = json.loads(answer)
        return found

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.wait(30)
        shutil.rmtree(self.base)


@pytest.fixture(scope="module", params=["self", "user"])
def worker(request: pytest.FixtureRequest) -> Iterator[Worker]:
    if request.param == "user" and os.geteuid() != 0:
        pytest.skip("an ordinary user already")
    made = Worker(USER if request.param == "user" else None)
    yield made
    made.close()


def plain(tree: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Without what nobody sets of directories that only the destination has: times, and write permission, which rsync
    also gives to those that stay for what is protected in them.
    """
    now = 1_700_000_000 * 10**9
    seen = {}
    for name, (kind, mode, mtime_ns, *content) in tree.items():
        if kind == stat.S_IFDIR:
            seen[name] = [kind, mode | stat.S_IWUSR, min(mtime_ns, now)]
        else:
            seen[name] = [kind, mode, mtime_ns, *content]
    return seen


@pytest.mark.skipif(shutil.which("rsync") is None, reason="needs rsync to compare with")
@settings(max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(task=tasks())
def test_any_two_trees_become_what_rsync_makes_of_them(worker: Worker, task: dict[str, Any]) -> None:
    found = worker.compare(task)
    assert not found["failure"]
    if any("in-the-way" in problem for problem in found["problems"]) or found["trouble"]:
        return
    assert not found["problems"]
    if not task["dry_run"]:
        assert plain(found["ours"]) == plain(found["theirs"])
    ours, theirs = found["our_items"], found["their_items"]
    if task["filters"] and task["dry_run"]:
        # rsync announces directories, too, that will stay for what is protected in them.
        theirs = [line for line in theirs if line in ours or not (line.startswith("*deleting") and line[-1] == "/")]
    assert ours == theirs
    assert found["again"] == []
