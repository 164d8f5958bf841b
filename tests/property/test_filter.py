"""Exclude patterns: against a naive model, and against rsync itself on real trees."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agentd import _core
from tests.helpers.effort import examples

RSYNC = shutil.which("rsync")

Path = tuple[bytes, bool]
"""Relative to the root of the transfer, and whether it is a directory."""


def excluded(patterns: list[bytes], paths: list[Path]) -> list[bool]:
    result: list[bool] = _core._selftest("filter", b"", {"patterns": patterns, "paths": paths})
    return result


# Pattern parts with what they mean as a regular expression.
PARTS = {
    "a": "a", "b": "b", "-": "-", ".o": r"\.o", "/": "/", "?": "[^/]", "*": "[^/]*", "**": ".*",
    "[ab]": "[ab]", "[!a]": "[^a/]", "[^b]": "[^b/]", "[a-c.]": "[a-c.]", "[[:alpha:]-]": "[a-zA-Z-]",
    "[]a]": r"[\]a]", "[\\]]": r"\]", "[[:digit:][:upper:]]": "[0-9A-Z]", "[--.]": "[-.]", "[z-a]": "(?!)",
}  # fmt: skip

NAMES = ["a", "b", "ab", "aa", "b.o", "a.o", "-", "c", "]", "a-b", "A1"]
path_texts = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map("/".join)


def model(pattern: str, expression: str, path: str, *, is_dir: bool) -> bool:
    if pattern.endswith("/") and len(pattern) > 1:
        if not is_dir:
            return False
        pattern, expression = pattern[:-1], expression[:-1]
    match = re.compile(expression.removeprefix("/"), re.DOTALL).fullmatch
    if pattern.startswith("/"):
        return match(path) is not None
    if pattern.startswith("**"):
        return match("/" + path) is not None
    if "/" in pattern or "**" in pattern:
        tails = [path] + [path[at + 1 :] for at, char in enumerate(path) if char == "/"]
        return any(match(tail) for tail in tails)
    return match(path.rpartition("/")[2]) is not None


@given(st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=8), path_texts, st.booleans())
@settings(max_examples=examples(300))
def test_patterns_mean_what_they_say(parts: list[str], path: str, is_dir: bool) -> None:
    # Stars side by side would make another token.
    assume(not any(left[-1] == right[0] == "*" for left, right in pairwise(parts)))
    pattern, expression = "".join(parts), "".join(PARTS[part] for part in parts)
    assert excluded([pattern.encode()], [(path.encode(), is_dir)]) == [model(pattern, expression, path, is_dir=is_dir)]


@given(st.lists(st.binary(max_size=60), max_size=4), st.binary(max_size=80), st.booleans())
def test_arbitrary_bytes_are_a_filter_or_refused(patterns: list[bytes], path: bytes, is_dir: bool) -> None:
    try:
        excluded(patterns, [(path, is_dir)])
    except ValueError as error:
        assert "exclude pattern" in str(error)  # noqa: PT017 - both outcomes are right


def survivors(patterns: list[bytes], paths: list[Path]) -> set[bytes]:
    """What a walk transfers; a directory's path ends with a slash."""
    out = {path for (path, _), out in zip(paths, excluded(patterns, paths), strict=True) if out}
    kept = set()
    for path, is_dir in paths:
        parts = path.split(b"/")
        if not any(b"/".join(parts[:n]) in out for n in range(1, len(parts) + 1)):
            kept.add(path + b"/" if is_dir else path)
    return kept


def rsync_survivors(patterns: list[bytes], root: bytes) -> set[bytes]:
    assert RSYNC is not None
    command = [os.fsencode(RSYNC), b"-rn8", b"--out-format=%n", *(b"--exclude=" + pattern for pattern in patterns)]
    run = subprocess.run([*command, root + b"/", root + b".none/"], capture_output=True, check=True, timeout=60)
    return set(run.stdout.splitlines()) - {b"./"}


def make(root: bytes, paths: list[Path]) -> None:
    for path, is_dir in paths:
        place = os.path.join(root, path)
        if is_dir:
            os.makedirs(place, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            with open(place, "wb"):
                pass


RICH_NAMES = [b"a", b"b", b"ab", b"a.o", b"*", b"[a]", b"-", b"!a", b"]", b"A", b"1", b"a b", b"\\", b"\xc3\xa9"]


def rich_tree() -> list[Path]:
    """Every name at every depth up to three, below a few directories."""
    paths: list[Path] = []
    for above in (b"", b"d/", b"ab.d/", b"d/ab/", b"d/d/", b"ab.d/-d/"):
        if above:
            paths.append((above[:-1], True))
        paths += [(above + name, n % 4 == 2 and above.count(b"/") < 2) for n, name in enumerate(RICH_NAMES)]
    return list({path: (path, is_dir) for path, is_dir in sorted(paths, key=lambda each: each[1])}.values())


fragments = st.sampled_from([
    b"a", b"b", b"d", b"ab", b"-", b".", b"o", b"/", b"/", b"*", b"*", b"**", b"?", b"[a]", b"[!a]", b"[a-c]", b"[]-]",
    b"[", b"]", b"!", b"^", b"\\", b"[:", b":]", b"[[:alpha:]]", b"[^[:upper:]x]", b"[[:nope:]]", b"[a-\\]]", b"[\\-]",
    b"/***", b" ", b"\xc3", b"[\x80-\xff]", b"[[:punct:]-9]", b"[[a:]", b"[a-]",
])  # fmt: skip
patterns = st.builds(
    lambda prefix, parts: prefix + b"".join(parts),
    st.sampled_from([b"", b"", b"", b"- ", b"+ "]),
    st.lists(fragments, min_size=1, max_size=7),
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[Path]]:
    root, paths = os.fsencode(tmp_path_factory.mktemp("filter") / "tree"), rich_tree()
    make(root, paths)
    return root, paths


@pytest.mark.skipif(RSYNC is None, reason="rsync is the reference here")
class TestAgainstRsync:
    """Patterns that nobody would write, on a tree with names that nobody would choose."""

    @given(st.lists(patterns, min_size=1, max_size=3))
    @settings(max_examples=examples(60), deadline=None)
    def test_a_rich_tree(self, tree: tuple[bytes, list[Path]], rules: list[bytes]) -> None:
        assume(b"!" not in rules)
        root, paths = tree
        assert survivors(rules, paths) == rsync_survivors(rules, root)

    @given(st.lists(patterns, min_size=1, max_size=2), st.lists(path_texts, min_size=1, max_size=12))
    @settings(max_examples=examples(40), deadline=None)
    def test_any_tree(self, rules: list[bytes], texts: list[str]) -> None:
        assume(b"!" not in rules)
        files = {text.encode() for text in texts}
        above = {path.rsplit(b"/", n)[0] for path in files for n in range(1, path.count(b"/") + 1)}
        paths = [(path, True) for path in sorted(above)] + [(path, False) for path in sorted(files - above)]
        with tempfile.TemporaryDirectory() as place:
            root = os.fsencode(place) + b"/tree"
            make(root, paths)
            assert survivors(rules, paths) == rsync_survivors(rules, root)
