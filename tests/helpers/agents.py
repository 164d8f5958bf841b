"""Homes of agents, and syncctl run against them as a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from proto.places import lock_path, places

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).resolve().parents[2]
SYNCCTL = [sys.executable, "-P", "-m", "ctl"]
DEADLINE_S = 20.0


def eventually(what: str, true: Callable[[], bool]) -> None:
    """Wait until it is true of another process."""
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


class Home:
    """One agent's environment.  ``with`` ends what was started in it."""

    def __init__(self, path: Path, **variables: str) -> None:
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(("SYNCCTL_", "XDG_"))}
        packages = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self.environ |= {"SYNCCTL_HOME": str(path), "PYTHONPATH": packages, **variables}
        self.path = path
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()
        pid = self.recorded_pid()
        if pid is not None and self.locked():
            os.kill(pid, signal.SIGKILL)
            eventually("the agent is gone", lambda: not self.locked())
        if self.places.runtime.startswith("/tmp/syncctl-"):
            shutil.rmtree(self.places.runtime, ignore_errors=True)

    @property
    def places(self) -> Any:
        return places(self.environ, os.geteuid(), sys.platform)

    def run(self, *words: str, status: int | None = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        """syncctl, to its end."""
        options = {"env": self.environ, "cwd": "/", "timeout": 60, **options}
        done = subprocess.run([*SYNCCTL, *words], capture_output=True, text=True, check=False, **options)
        assert status is None or done.returncode == status, (done.returncode, done.stdout, done.stderr)
        return done

    def popen(self, command: list[str], environ: Mapping[str, str] | None = None, **options: Any) -> Any:
        """A process that ends with the test."""
        process = subprocess.Popen(command, env={**self.environ, **(environ or {})}, cwd="/", **options)
        self._processes.append(process)
        return process

    def foreground(self, environ: Mapping[str, str] | None = None, **options: Any) -> Any:
        """``agentd`` itself."""
        return self.popen([sys.executable, "-P", "-m", "agentd"], environ, **options)

    def pid(self) -> int:
        """Of the agent that answers."""
        return int(json.loads(self.run("status", "--json").stdout)["agent"]["pid"])

    def recorded_pid(self) -> int | None:
        try:
            return int(json.loads(Path(lock_path(self.places.state)).read_bytes())["pid"])
        except (OSError, ValueError):
            return None

    def locked(self) -> bool:
        """Whether an agent holds the lock."""
        import fcntl

        try:
            with open(lock_path(self.places.state), "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def log(self) -> str:
        try:
            return Path(self.places.log).read_text()
        except FileNotFoundError:
            return ""

    def kill(self) -> None:
        """As a crash would."""
        os.kill(self.pid(), signal.SIGKILL)
        eventually("the agent is gone", lambda: not self.locked())
