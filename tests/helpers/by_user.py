"""Work done by an ordinary user, since root hides EACCES."""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

USER = 65534


def by_user(work: Callable[[], None]) -> None:
    """Runs ``work`` as an ordinary user, in a child process when we are root; its failure is ours."""
    if os.geteuid() != 0:
        return work()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(USER)
            os.setuid(USER)
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - the child must not return into the test runner
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status == 0, "see the child's traceback"
    return None


@contextmanager
def open_place() -> Iterator[Path]:
    """A directory of that user's, where that user can get to."""
    base = Path(tempfile.mkdtemp(prefix="syncctl-"))
    try:
        if os.geteuid() == 0:
            os.chown(base, USER, USER)
        yield base
    finally:
        for path, directories, _ in os.walk(base):
            for name in directories:
                inner = Path(path, name)
                if not inner.is_symlink():
                    inner.chmod(0o700)
        shutil.rmtree(base)
