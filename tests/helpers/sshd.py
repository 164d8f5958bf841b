"""A private OpenSSH server on a loopback port, with keys, known_hosts and a client configuration of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/lib/ssh:" + os.environ.get("PATH", ""))
START_DEADLINE_S = 10.0


def descendants(pid: int) -> list[int]:
    """The processes beneath ``pid``, nearest first."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            parent = int(stat.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(0), [])
        found += below
        todo += below
    return found


def command_of(pid: int) -> str:
    """The command line of ``pid``; empty when it is gone or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


class ServerFiles:
    """What a server and its client share: keys, known_hosts, and a client configuration that knows it as ``box``."""

    address = "127.0.0.1"

    def __init__(self, directory: str | os.PathLike[str], account: str | None = None) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        entry = pwd.getpwuid(os.geteuid()) if account is None else pwd.getpwnam(account)
        self.account = entry.pw_name
        self.uid, self.gid = entry.pw_uid, entry.pw_gid
        self.client_key = self.directory / "id_ed25519"
        self.host_key = self.directory / "host_ed25519"
        self.known_hosts = self.directory / "known_hosts"
        self.client_config = self.directory / "ssh_config"
        self.port = 0
        self.authorized_keys = self.directory / "authorized_keys"
        self.make_key(self.client_key)
        self.authorized_keys.write_text(self.client_key.with_suffix(".pub").read_text())
        self.make_key(self.host_key)

    def make_key(self, path: Path) -> None:
        """A new key pair at ``path``."""
        path.unlink(missing_ok=True)
        if shutil.which("ssh-keygen"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path], check=True)
            return
        import asyncssh

        key = asyncssh.generate_private_key("ssh-ed25519", comment="test")
        key.write_private_key(path)
        key.write_public_key(path.with_suffix(".pub"))

    def write_client_side(self) -> None:
        """known_hosts and the configuration, for the port."""
        host_key = self.host_key.with_suffix(".pub").read_text()
        self.known_hosts.write_text(f"[{self.address}]:{self.port} {host_key}")
        self.client_config.write_text(
            f"""\
Host box
    HostName {self.address}
    Port {self.port}
    User {self.account}
    IdentityFile "{self.client_key}"
    IdentitiesOnly yes
    UserKnownHostsFile "{self.known_hosts}"
    GlobalKnownHostsFile /dev/null
"""
        )
        self.hand_over()

    def hand_over(self) -> None:
        """Give the files to the account."""
        if os.geteuid() == 0:
            for path in (self.directory, *self.directory.rglob("*")):
                os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def forget_host_key(self) -> None:
        """The client has never seen the server."""
        self.known_hosts.write_text("")

    def change_host_key(self) -> None:
        """The client knows another key for it."""
        other = self.directory / "other_ed25519"
        self.make_key(other)
        self.known_hosts.write_text(f"[{self.address}]:{self.port} {other.with_suffix('.pub').read_text()}")


def free_port() -> int:
    """A loopback port that nobody listens on at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_banner(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until an SSH server greets on ``port``; False when ``process`` ended first."""
    give_up_at = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < give_up_at and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as sock:
                if sock.recv(4) == b"SSH-":
                    return True
        except OSError:
            time.sleep(0.02)
    return False


class Sshd(ServerFiles):
    """A context manager: sshd runs within it.

    It runs as root, or as ``account`` when that is given (then it can serve no other).  ``options`` are lines of
    sshd_config; ``environ`` is set in every session.  ``ssh -F str(client_config) box`` logs in.

    In a network namespace it listens on ``address``, and ``enter`` are the words that lead into it.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        account: str | None = None,
        options: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
        address: str = "127.0.0.1",
        enter: Sequence[str | bytes] = (),
    ) -> None:
        super().__init__(directory, account)
        self.address = address
        self._enter = enter
        self.log = self.directory / "sshd.log"
        self._options = dict(options or {})
        self._environ = dict(environ or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if SSHD is None:
            raise RuntimeError("sshd is not installed")
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        for _ in range(5):  # another process may take the port in between
            self.port = free_port()
            self._write_server_side()
            self.write_client_side()
            if self._start():
                return self
        raise RuntimeError(f"sshd does not start: {self.log.read_text()}")

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The listener's."""
        if self._process is None:
            raise RuntimeError("not running")
        return self._process.pid

    def session_pids(self) -> list[int]:
        """The sshd processes of its sessions, without what they run."""
        return [pid for pid in descendants(self.pid) if command_of(pid).startswith("sshd")]

    def kill_sessions(self, number: int = signal.SIGKILL) -> None:
        """Cut every connection, as a crash of the far side does; the listener stays."""
        for pid in self.session_pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def authentications(self) -> int:
        """How many logins there were."""
        return self.log.read_text().count("Accepted publickey")

    def stop(self) -> None:
        """End it, with its sessions and whatever they still run in their process tree."""
        if self._process is None:
            return
        for pid in [*descendants(self.pid), self.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self._process.wait()
        self._process = None

    def _start(self) -> bool:
        as_other = os.geteuid() == 0 and self.uid != 0
        self._process = subprocess.Popen(
            [*self._enter, str(SSHD), "-D", "-f", self.directory / "sshd_config", "-E", self.log],
            stdin=subprocess.DEVNULL,
            **({"user": self.uid, "group": self.gid, "extra_groups": []} if as_other else {}),  # type: ignore[call-overload]
        )
        if self._listens() if self._enter else wait_banner(self.port, self._process):
            return True
        self.stop()
        return False

    def _listens(self) -> bool:
        """Whether it says so, where it cannot be asked from here."""
        give_up_at = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < give_up_at and self._process is not None and self._process.poll() is None:
            if "Server listening on" in self.log.read_text():
                return True
            time.sleep(0.02)
        return False

    def _write_server_side(self) -> None:
        options = {
            "Port": str(self.port),
            "ListenAddress": self.address,
            "HostKey": f'"{self.host_key}"',
            "AuthorizedKeysFile": f'"{self.authorized_keys}"',
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PermitRootLogin": "yes",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "LogLevel": "VERBOSE",
            "PrintMotd": "no",
            **self._options,
        }
        lines = [f"{name} {value}\n" for name, value in options.items()]
        if self._environ:
            lines.append("SetEnv " + " ".join(f'"{name}={value}"' for name, value in self._environ.items()) + "\n")
        (self.directory / "sshd_config").write_text("".join(lines))
        self.log.touch()
