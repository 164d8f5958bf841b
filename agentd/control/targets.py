"""What is asked for, turned into jobs: locations, pairs by name or by a path in them, and paths as looks."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from agentd import _core
from proto import control
from proto.errors import SyncError
from proto.job import Job, Location, Options, parse_location, shown
from proto.looks import pack_looks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentd.config import Config
    from agentd.pairs import Pair
    from proto.control import Run, Sync
    from proto.job import Outcome


class Asked(NamedTuple):
    """A job; of one for some paths only, each as it was named, and from its source's root."""

    job: Job
    paths: Sequence[tuple[bytes, bytes]] = ()
    excluded: frozenset[bytes] = frozenset()
    """Those that the job's filters leave out, from the root."""


def job_of(message: Run) -> Job:
    """The job that RUN asks for.  Raises SyncError ``usage``."""
    source = _here(parse_location(message.source), message.env)
    destination = _here(parse_location(message.destination), message.env)
    if source.host is not None and destination.host is not None:
        raise SyncError("usage", "source and destination are both on other hosts", "one of them has to be here")
    return Job(source, destination, _options(message, tuple(message.excludes)))


def jobs_of(message: Sync, config: Config) -> list[Asked]:
    """The jobs that SYNC asks for, one for each pair.  It may block.  Raises SyncError."""
    targets = message.targets or [message.env.get("PWD", "").encode("utf-8", "surrogateescape")]
    wanted: dict[str, list[tuple[bytes, bytes]]] = {}
    for target in targets:
        pair, path = _pair_of(target, message.env, config)
        paths = wanted.setdefault(pair.name, [])
        paths.append((target, b"" if message.whole or not message.targets else path))
    asked = []
    for name, paths in wanted.items():
        pair = config.pairs[name]
        whole = any(not path for _, path in paths)
        options = _options(
            message,
            (*pair.filters, *message.excludes),
            delete=pair.mirror,
            compress=pair.compress,
            fsync=pair.fsync,
            hard_links=pair.hard_links,
            max_delete=pair.max_delete,
            trash=pair.trash,
        )
        if whole:
            asked.append(Asked(pair.job(options)))
            continue
        looks = _looks(pair.source.path, [path for _, path in paths])
        left_out = frozenset(p for _, p in paths if _core.excluded(list(options.excludes), p, looks.get(p, False)))
        asked.append(Asked(pair.job(options, pack_looks(looks.items())), paths, left_out))
    return asked


def fates(asked: Asked, outcome: Outcome | None) -> dict[str, list[bytes]]:
    """What became of a job's paths: see FATES.  Without an outcome nothing is known of them."""
    if outcome is None:
        return {"open": [name for name, _ in asked.paths]} if asked.paths else {}
    found: dict[str, list[bytes]] = {}
    for name, path in asked.paths:
        if path in asked.excluded:
            found.setdefault("excluded", []).append(name)
            continue
        codes = {code for at, code, _ in outcome.problems if _concerns(at, path)}
        fate = "landed"
        if codes:
            fate = "held" if codes == {"changed-here"} else "failed"
        elif outcome.problem_count > len(outcome.problems):
            fate = "open"
        found.setdefault(fate, []).append(name)
    return found


def _concerns(problem: bytes, path: bytes) -> bool:
    """Whether a problem is about ``path``: at it, below it, or with a directory that it is in."""
    problem = problem.partition(b"\0")[0]
    return problem == path or problem.startswith(path + b"/") or path.startswith(problem + b"/") or not problem


def _options(
    message: Run | Sync,
    excludes: tuple[bytes, ...],
    *,
    delete: bool = False,
    compress: str = "auto",
    fsync: str = "batch",
    hard_links: bool = True,
    max_delete: int | None = None,
    trash: int = 0,
) -> Options:
    if message.hard_links is not None:
        hard_links = message.hard_links
    if message.max_delete is not None:
        max_delete = message.max_delete
    if message.trash is not None:
        trash = message.trash
    return Options(
        message.delete or delete, message.checksum, message.dry_run, message.itemize, message.owner, message.group,
        hard_links, message.force, message.profile, max_delete, excludes, message.compress or compress,
        isinstance(message, control.Sync) and message.reread, message.fsync or fsync, trash,
    )  # fmt: skip


def located(target: bytes, env: Mapping[str, str]) -> Location:
    """A location as the asking side means it.  Raises SyncError ``usage``."""
    return _here(parse_location(target), env)


def _here(location: Location, env: Mapping[str, str]) -> Location:
    """``location`` with a local path made absolute: from the home, or from the asking side's directory."""
    if location.host is not None:
        return location
    path = location.path
    if path == b"~" or path.startswith(b"~/"):
        path = os.path.expanduser(path)
    elif not path.startswith(b"/"):
        path = os.path.join(os.fsencode(env.get("PWD", "")), path)
    if not path.startswith(b"/"):
        raise SyncError("usage", f"{shown(location.path)}: a local path is absolute", "or send PWD in env")
    return Location(None, path)


def _pair_of(target: bytes, env: Mapping[str, str], config: Config) -> tuple[Pair, bytes]:
    """The pair of that name, or the innermost whose source holds that path, and the path from its root."""
    named = config.pairs.get(target.decode("utf-8", "replace"))
    if named is not None:
        return named, b""
    path = os.path.join(os.fsencode(env.get("PWD", "")), os.path.expanduser(target))
    holders = [
        (root, inner, pair)
        for pair in config.pairs.values()
        if pair.source.host is None
        for root, inner in _held(pair.source.path, path)
    ]
    if b"/" not in target and not os.path.lexists(path):
        holders = []
    if not holders:
        raise SyncError("no-such-pair", f"{shown(target)}: no pair of this name, and no pair's source holds this path")
    longest = max(len(root) for root, _, _ in holders)
    best = [(pair, inner) for root, inner, pair in holders if len(root) == longest]
    if len(best) > 1:
        names = " and ".join(pair.name for pair, _ in best)
        raise SyncError("usage", f"{shown(target)}: the source of {names}", "name the pair that is meant")
    return best[0]


def _held(root: bytes, path: bytes) -> list[tuple[bytes, bytes]]:
    """The resolved root and the path from it, when it holds it.  A last component may be a symlink in the tree."""
    root = os.path.realpath(root)
    folder, name = os.path.split(path.rstrip(b"/") or b"/")
    own = os.path.join(os.path.realpath(folder), name) if name not in (b"", b".", b"..") else os.path.realpath(path)
    for candidate in (own, os.path.realpath(path)):
        if candidate == root:
            return [(root, b"")]
        if candidate.startswith(root.rstrip(b"/") + b"/"):
            return [(root, candidate[len(root.rstrip(b"/")) + 1 :])]
    return []


def _looks(root: bytes, paths: list[bytes]) -> dict[bytes, bool]:
    """Looks for ``paths``: a directory with all in it; of one that went with directories above, the first that did."""
    looks: dict[bytes, bool] = {}
    root = os.path.realpath(root)
    for path in paths:
        names = path.split(b"/")
        for depth in range(1, len(names) + 1):
            at = b"/".join(names[:depth])
            try:
                deep = stat.S_ISDIR(os.lstat(os.path.join(root, at)).st_mode)
            except (FileNotFoundError, NotADirectoryError):
                looks.setdefault(at, False)
                break
            except OSError:  # it is the sender's to say what is wrong with it
                deep = False
            if depth == len(names):
                looks[at] = looks.get(at, False) or deep
    return looks
