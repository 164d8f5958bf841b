"""An agent's life, as processes: it starts in spite of everything, is the only one, is found, and ends cleanly."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ctl.command import agent_command
from tests.helpers.agents import SYNCCTL, Home, eventually
from tests.helpers.trouble import seeds

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
IDLE_PSS_KIB = 45 << 10


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a path that leaves room for a socket's name."""
    with tempfile.TemporaryDirectory(prefix="sc-", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture
def home(short: Path) -> Iterator[Home]:
    with Home(short / "home") as made:
        yield made


def test_start_status_start_restart_stop(home: Home) -> None:
    assert "no agent is running" in home.run("status", status=3).stderr
    assert "no agent is running" in home.run("stop", status=3).stderr
    assert not home.path.exists()  # asking leaves nothing behind
    home.run("start")
    first = home.pid()
    assert "running already" in home.run("start").stderr
    assert home.pid() == first
    assert (home.path / "run").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (home.path / "run").iterdir()} == {0o600}
    home.run("restart")
    assert home.pid() != first
    home.run("stop")
    assert not home.locked()
    assert list((home.path / "run").iterdir()) == []
    home.run("status", status=3)


def test_of_many_starts_at_once_one_wins_and_all_succeed(home: Home) -> None:
    starts = [home.popen([*SYNCCTL, "start"], stderr=subprocess.PIPE) for _ in range(6)]
    assert [(start.communicate(timeout=60)[1], start.returncode)[1] for start in starts] == [0] * 6
    assert home.log().count(" ready ") == 1
    home.pid()


def ended_one(*processes: Any) -> bool:
    return any(process.poll() is not None for process in processes)


@pytest.mark.fault("E6")
def test_of_two_agents_at_once_one_is_and_the_other_names_it(home: Home) -> None:
    for _ in seeds(4):
        one, other = (home.foreground(stderr=subprocess.PIPE) for _ in range(2))
        eventually("one gave up", partial(ended_one, one, other))
        loser, winner = (one, other) if one.poll() is not None else (other, one)
        assert loser.returncode == 3
        assert f"another agent is running (pid {winner.pid})" in loser.stderr.read().decode()
        assert home.pid() == winner.pid
        winner.send_signal(signal.SIGTERM)
        assert winner.wait(20) == 0


@pytest.mark.fault("E7")
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel does not tell who listens")
def test_a_stopped_agent_is_named_in_time(home: Home) -> None:
    home.run("start")
    pid = home.pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        for verb in ("status", "list"):
            begun = time.monotonic()
            said = home.run(verb, status=3).stderr
            assert f"the agent (pid {pid}) was stopped by a signal" in said
            assert f"kill -CONT {pid}" in said
            print(f"{verb}: {time.monotonic() - begun:.1f} s")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert home.pid() == pid


@pytest.mark.fault("E8")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(home: Home, number: int) -> None:
    agent = home.foreground(stderr=subprocess.DEVNULL)
    eventually("ready", lambda: " ready " in home.log())
    agent.send_signal(number)
    assert agent.wait(10) == 0
    assert not Path(home.places.control_socket).exists()


@pytest.mark.fault("E7")
def test_a_stale_socket_of_a_killed_predecessor_is_no_obstacle(home: Home) -> None:
    home.run("start")
    first = home.pid()
    home.kill()
    assert Path(home.places.control_socket).exists()
    home.run("status", status=3)
    home.run("start")
    assert home.pid() != first


def test_a_home_whose_socket_paths_would_be_too_long(tmp_path: Path) -> None:
    with Home(tmp_path / "a home with a name" / ("x" * 150)) as home:
        home.run("start")
        assert len(home.places.control_socket) < 70
        assert os.stat(home.places.runtime).st_mode & 0o777 == 0o700
        home.run("stop")


def test_a_runtime_directory_that_was_removed_is_made_again(home: Home) -> None:
    home.run("start")
    first = home.pid()
    shutil.rmtree(home.path / "run")
    home.run("start")
    assert home.pid() == first
    home.run("stop")


def at_places(tmp_path: Path, runtime: str) -> Home:
    """A home by the XDG variables, with a session's runtime directory."""
    (tmp_path / runtime).mkdir(mode=0o700)
    variables = {f"XDG_{name}_HOME": str(tmp_path / name.lower()) for name in ("CONFIG", "STATE")}
    home = Home(tmp_path / "home", HOME=str(tmp_path), XDG_RUNTIME_DIR=str(tmp_path / runtime), **variables)
    del home.environ["SYNCCTL_HOME"]
    return home


def test_an_agent_outlives_its_session_s_runtime_directory(short: Path) -> None:
    with at_places(short, "session") as home:
        home.run("start")
        first = home.pid()
        assert home.places.runtime == str(short / "session/syncctl")
        shutil.rmtree(short / "session")
        home.run("start")
        assert home.pid() == first
        assert not (short / "session").exists()
        home.run("stop")


def test_a_command_with_another_environment_finds_the_agent(short: Path) -> None:
    with at_places(short, "desktop") as desktop, at_places(short, "cron") as cron:
        desktop.run("start")
        assert cron.places.control_socket != desktop.places.control_socket
        assert cron.pid() == desktop.pid()
        assert "running already" in cron.run("start").stderr
        hold = cron.popen([*SYNCCTL, "start", "--hold"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        line = bytes.fromhex(hold.stdout.readline().decode().removeprefix("@syncctl:"))
        assert desktop.places.peer_socket.encode() in line
        hold.communicate(timeout=10)
        assert hold.returncode == 0
        cron.run("stop")
        assert not desktop.locked()


@pytest.mark.parametrize("name", ["run", "state"])
def test_a_directory_that_others_can_enter_is_refused(home: Home, name: str) -> None:
    (home.path / name).mkdir(parents=True)
    (home.path / name).chmod(0o755)
    said = home.run("start", status=3).stderr
    assert f"{home.path / name} has mode 0755" in said
    assert "Traceback" not in said
    (home.path / name).rmdir()
    elsewhere = home.path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (home.path / name).symlink_to(elsewhere)
    assert f"{home.path / name} is a symlink" in home.run("start", status=3).stderr
    assert list(elsewhere.iterdir()) == []
    (home.path / name).unlink()
    (home.path / name).write_bytes(b"")
    assert f"{home.path / name} is not a directory" in home.run("start", status=3).stderr


LISTEN = """
import os, socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print("listening", flush=True)
while True: s.accept()
"""


@pytest.mark.fault("F12", "G9")
@ROOT_ONLY
@pytest.mark.skipif(not os.access("/usr/bin/python3", os.X_OK), reason="takes a Python that everybody can run")
def test_what_another_user_made_first_is_refused(home: Home) -> None:
    """The directory by the agent, a socket in it by every command; what is ours can be neither listed nor taken."""
    run = home.path / "run"
    for above in (home.path.parent, home.path):
        above.mkdir(exist_ok=True)
        above.chmod(0o711)
    run.mkdir(mode=0o700)
    os.chown(run, 65534, 65534)
    squatter = home.popen(
        ["/usr/bin/python3", "-I", "-c", LISTEN, str(run / "control.sock")],
        user=65534, group=65534, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert squatter.stdout.readline() == b"listening\n"
    for verb in ("status", "sync"):
        assert f"{run / 'control.sock'}: the agent there is user 65534's" in home.run(verb, status=4).stderr
    hold = home.popen([*SYNCCTL, "start", "--hold"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert b"is user 65534's" in bytes.fromhex(hold.stdout.readline().decode().removeprefix("@syncctl:"))
    squatter.kill()
    squatter.wait()
    (run / "control.sock").unlink()
    assert f"{run} belongs to user 65534" in home.run("start", status=3).stderr
    os.chown(run, os.geteuid(), os.getegid())
    home.run("start")
    for words in (f"ls {run}", f"touch {run}/new", f"rm -f {run}/control.sock"):
        done = subprocess.run(words.split(), user=65534, group=65534, cwd="/", capture_output=True, check=False)
        assert done.returncode != 0, words
    home.pid()


CONNECT = """
import socket, sys
s = socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(sys.argv[1])
try: print(s.recv(1 << 16))
except ConnectionResetError: print(b"")
"""


@pytest.mark.fault("G9", "F12")
@ROOT_ONLY
@pytest.mark.skipif(not os.access("/usr/bin/python3", os.X_OK), reason="takes a Python that everybody can run")
@pytest.mark.parametrize("name", ["control_socket", "peer_socket"])
def test_another_user_is_refused_even_where_modes_let_it_in(home: Home, name: str) -> None:
    home.run("start")
    path = Path(getattr(home.places, name))
    for above in (home.path.parent, home.path, home.path / "run"):
        above.chmod(0o711)
    path.chmod(0o666)
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-c", CONNECT, str(path)],
        user=65534, group=65534, cwd="/", capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.stdout.strip(), done.returncode) == ("b''", 0), done.stderr
    assert "of another user" in home.log()


def test_what_a_command_passed_on_unasked_is_let_go(home: Home) -> None:
    mine, theirs = os.pipe()
    home.run("start", pass_fds=[theirs])
    os.close(theirs)
    assert os.read(mine, 1) == b""  # or it would wait for as long as the agent runs
    os.close(mine)


@pytest.mark.fault("C13")
def test_a_damaged_store_is_moved_aside(home: Home) -> None:
    (home.path / "state").mkdir(parents=True, mode=0o700)
    (home.path / "state/state.sqlite").write_bytes(b"no database" * 1000)
    home.run("start")
    assert "begun anew" in home.log()
    assert (home.path / "state/state.sqlite.unusable").read_bytes().startswith(b"no database")


def test_what_a_killed_session_left_is_swept(home: Home, tmp_path: Path) -> None:
    home.run("start")
    home.kill()
    root = tmp_path / "root"
    (root / "below").mkdir(parents=True)
    with sqlite3.connect(home.path / "state/state.sqlite") as db:
        tag = db.execute("SELECT agent FROM identity").fetchone()[0][:4].hex()
        db.execute("INSERT INTO sessions VALUES (?, ?)", (bytes(16), os.fsencode(root)))
    db.close()
    left = root / "below" / f".name.{tag}01234567.sync~"
    foreign = root / "below" / ".name.0011223301234567.sync~"
    for path in (left, foreign):
        path.write_text("cut short")
    home.run("start")
    eventually("swept", lambda: not left.exists())
    assert foreign.exists()
    home.run("stop")
    with sqlite3.connect(home.path / "state/state.sqlite") as db:
        assert db.execute("SELECT count(*) FROM sessions").fetchone() == (0,)
    db.close()


@ROOT_ONLY
@pytest.mark.skipif(sys.platform != "linux", reason="takes tmpfs")
def test_a_full_disk_is_no_reason_not_to_start(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)], check=True)
    try:
        with open(mount / "fill", "wb", buffering=0) as fill, pytest.raises(OSError, match="No space left"):
            fill.write(bytes(64 << 10)) and fill.write(b"more")
        with Home(mount / "home") as home:
            home.run("start")
            home.pid()
            home.run("stop")
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


@pytest.mark.fault("C13")
@ROOT_ONLY
def test_state_that_became_read_only_is_no_reason_not_to_start(home: Home) -> None:
    state = home.path / "state"
    state.mkdir(mode=0o700, parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", str(state)], check=True)
    try:
        home.run("start")
        home.run("stop")
        subprocess.run(["mount", "-o", "remount,ro", str(state)], check=True)
        home.run("start")
        assert "running already" in home.run("start").stderr
        home.run("stop")
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)


@pytest.mark.fault("E8")
def test_hup_reads_the_configuration_again_and_a_bad_one_changes_nothing(home: Home) -> None:
    home.run("start")
    pid = home.pid()
    (home.path / "config.toml").write_text("[nonsense]\n")
    os.kill(pid, signal.SIGHUP)
    eventually("said so", lambda: "the last good one holds" in home.log())
    assert "nonsense" in home.log()
    (home.path / "config.toml").write_text("[ssh]\ndead_after_s = 20\n")
    os.kill(pid, signal.SIGHUP)
    eventually("taken", lambda: "read the configuration again" in home.log())
    assert home.pid() == pid


def test_a_bad_configuration_at_the_start_is_named(home: Home) -> None:
    home.path.mkdir(mode=0o700)
    (home.path / "config.toml").write_text("[ssh]\ntransport = 'pigeon'\n")
    said = home.run("start", status=2).stderr
    assert "config.toml" in said
    assert "transport" in said
    assert "Traceback" not in said
    eventually("it let go", lambda: not home.locked())


# the service manager


class FakeManager:
    """The datagram socket of a service manager."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(20)

    def wait(self, state: str) -> None:
        while self._socket.recv(4096).decode() != state:
            pass

    def close(self) -> None:
        self._socket.close()


def test_the_service_manager_hears_how_it_stands(home: Home, tmp_path: Path) -> None:
    manager = FakeManager(tmp_path / "notify")
    environ = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "200000"}
    agent = home.foreground(environ, stderr=subprocess.DEVNULL)
    manager.wait("READY=1")
    home.pid()
    manager.wait("WATCHDOG=1")
    manager.wait("WATCHDOG=1")
    agent.terminate()
    manager.wait("STOPPING=1")
    assert agent.wait(10) == 0
    manager.close()


def test_the_journal_gets_priorities_and_no_file_is_written(home: Home) -> None:
    read, write = os.pipe()
    stat = os.fstat(write)
    agent = home.foreground({"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"}, stderr=write)
    os.close(write)
    with open(read) as journal:
        assert journal.readline().startswith("<6>agentd.app: ready ")
        agent.terminate()
        assert "<6>agentd.app: stopping" in journal.read()
    assert not Path(home.places.log).exists()


def test_a_variable_that_a_terminal_passed_on_is_no_journal(home: Home) -> None:
    home.environ["JOURNAL_STREAM"] = "8:1234"
    home.run("start")
    assert " ready " in home.log()


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="no systemd here")
def test_a_passed_socket_is_used_and_left_alone(home: Home) -> None:
    path = Path(home.places.control_socket)
    path.parent.mkdir(parents=True, mode=0o700)
    environ = [f"--setenv={name}={home.environ[name]}" for name in ("SYNCCTL_HOME", "PYTHONPATH", "PATH")]
    activator = home.popen(
        ["systemd-socket-activate", f"--listen={path}", "--fdname=control", *environ, *agent_command()],
        stderr=subprocess.DEVNULL,
    )
    eventually("it listens", path.exists)
    inode = path.stat().st_ino
    assert home.pid() == activator.pid  # the connection started it
    assert Path(home.places.peer_socket).exists()
    home.run("stop")
    assert activator.wait(10) == 0
    assert path.stat().st_ino == inode
    assert not Path(home.places.peer_socket).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_idle_agent_is_small(home: Home) -> None:
    home.run("start")
    rollup = Path(f"/proc/{home.pid()}/smaps_rollup").read_text()
    (pss,) = (int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    assert pss < IDLE_PSS_KIB
    # asyncssh is at home in a process of its own
    maps = Path(f"/proc/{home.pid()}/maps").read_text()
    assert "cryptography" not in maps


def test_json_says_what_text_says(home: Home) -> None:
    agent = home.popen([*agent_command(), "--log-json"], stderr=subprocess.PIPE)
    entry = json.loads(agent.stderr.readline())
    assert (entry["level"], entry["logger"], entry["message"]) == ("info", "agentd.app", "ready")
    agent.terminate()
    agent.communicate(timeout=10)
