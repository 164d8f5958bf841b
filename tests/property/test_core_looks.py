"""A partial list of what changed turns what a receiver knows of a tree into what the tree is."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import sending
from tests.helpers.effort import examples
from tests.helpers.sending import Entry, Group, Sending, looks

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

FILTERS = (b"*.o", b"/d0/hidden/", b"+ keep", b"d2/e/")
NAMES = (b"d0", b"d1", b"d2", b"e", b"hidden", b"file", b"x.o", b"keep", b"caf\xe9")

Known = dict[bytes, Entry]


def forget_below(known: Known, path: bytes) -> None:
    for below in [p for p in known if p.startswith(path + b"/") or (not path and p)]:
        del known[below]


def apply(known: Known, groups: Iterable[Group]) -> None:
    """What the receiver knows once it heard these groups; checks their order."""
    dirs: dict[bytes, bool] = {}
    for group in groups:
        partial = group.flags & sending.PARTIAL
        assert not group.path or group.path in dirs, "a group before its directory's entry"
        assert not partial or group.flags == sending.PARTIAL | sending.FIRST | sending.LAST
        if not partial:
            assert not group.path or dirs[group.path], "a listing that was not announced"
        for entry in group.entries:
            if entry.kind == sending.GONE:
                known.pop(entry.path, None)
            else:
                known[entry.path] = entry._replace(size=entry.size if entry.kind == sending.REGULAR else 0)
            if entry.kind == sending.DIRECTORY:
                dirs[entry.path] = not partial or entry.size == 1
            if entry.kind != sending.DIRECTORY or entry.size:
                forget_below(known, entry.path)


def whole(root: bytes) -> Known:
    with Sending(root, filters=FILTERS, threads=1) as running:
        return {entry.path: entry for group in running.list_all() for entry in group.entries}


def directories(root: bytes) -> list[bytes]:
    return [os.path.relpath(path, root) if path != root else b"" for path, _, _ in os.walk(root)]


def mutate(root: bytes, rng: random.Random) -> tuple[bytes, bool]:
    """Changes something; which look tells of it."""
    path = os.path.join(rng.choice(directories(root)), rng.choice(NAMES))
    full = os.path.join(root, path)
    action = rng.randrange(6)
    deep = False
    if os.path.isdir(full) and not os.path.islink(full):
        if action == 0:
            shutil.rmtree(full)
        elif action == 1:
            shutil.rmtree(full)
            with open(full, "wb") as file:
                file.write(rng.randbytes(rng.randrange(9)))
        else:
            os.chmod(full, rng.choice((0o700, 0o755)))
            deep = action == 2
    elif os.path.lexists(full) and action < 3:
        os.unlink(full)
        if action == 1:
            os.symlink(rng.choice(NAMES), full)
    elif action < 4:
        if os.path.lexists(full):
            os.unlink(full)
        os.makedirs(os.path.join(full, rng.choice(NAMES), rng.choice(NAMES)))
        deep = True
    elif not os.path.lexists(full) or os.path.isfile(full):
        with open(full, "wb") as file:
            file.write(rng.randbytes(rng.randrange(9)))
        os.utime(full, ns=(0, rng.randrange(1 << 40)))
    return path, deep


def payload(pairs: Iterable[tuple[bytes, bool]]) -> bytes:
    return b"".join(looks(deep=(path,)) if deep else looks(path) for path, deep in pairs)


@settings(max_examples=examples(60), deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 12), st.integers(0, 12), st.integers(1, 4))
def test_looks_at_what_changed_make_a_list_complete(rng: random.Random, first: int, changes: int, jobs: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = os.fsencode(place)
        for _ in range(first):
            mutate(root, rng)
        known = whole(root)
        seen: list[tuple[bytes, bool]] = []
        for _ in range(changes):
            path, deep = mutate(root, rng)
            seen.append((path, deep))
            # As a watch would say: the time of the directory that holds the name changed, too.
            seen.append((os.path.dirname(path), False))
        rng.shuffle(seen)
        parts = [seen[i::jobs] for i in range(jobs)]
        with Sending(root, filters=FILTERS, threads=2, looks=payload(parts[0])) as running:
            running.list_all()
            for part in parts[1:]:
                if part:
                    running.look(payload(part))
            apply(known, running.groups())
        assert known == whole(root)
