"""syncctl as a process, against a control server with fakes behind it."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import sys
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from proto import job
from tests.helpers.control_room import DONE, FAILED, Room, open_room

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parents[2]


class Cli:
    """A room whose server listens, and how to run syncctl against it."""

    def __init__(self, room: Room, path: Path) -> None:
        self.room = room
        self.socket = str(path / "s")
        self.home = str(path / "home")
        self.cwd = path
        self.serving = trio.CancelScope()

    def command(self, *words: str | bytes) -> list[str | bytes]:
        return [sys.executable, "-m", "tests.helpers.run_ctl", self.socket, *words]

    @property
    def options(self) -> dict[str, Any]:
        return {"cwd": self.cwd, "env": {**os.environ, "PYTHONPATH": str(ROOT), "SYNCCTL_HOME": self.home}}

    async def run(self, *words: str | bytes) -> subprocess.CompletedProcess[bytes]:
        with trio.fail_after(30):
            done: subprocess.CompletedProcess[bytes] = await trio.run_process(
                self.command(*words), capture_stdout=True, capture_stderr=True, check=False, **self.options
            )
        return done

    async def start(self, nursery: trio.Nursery, *words: str | bytes, **options: object) -> trio.Process:
        started: trio.Process = await nursery.start(
            partial(trio.run_process, self.command(*words), check=False, **self.options, **options)
        )
        return started


@asynccontextmanager
async def open_cli(path: Path) -> AsyncIterator[Cli]:
    async with open_room(path) as room, trio.open_nursery() as nursery:
        cli = Cli(room, path)
        with trio.socket.socket(socket.AF_UNIX) as listening:
            await listening.bind(cli.socket)
            listening.listen(16)

            async def serve() -> None:
                with cli.serving:
                    await trio.serve_listeners(room.server.serve, [trio.SocketListener(listening)])

            nursery.start_soon(serve)
            yield cli
            nursery.cancel_scope.cancel()


async def test_push(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli:
        sessions = cli.room.sessions
        sessions.reports.append(job.Items(b">f+++++++++ a\x1bb\0>f+++++++++ \xff\0"))
        sessions.go.set()
        done = await cli.run(
            "push", "src", "box:dst/", "-n", "--delete", "--exclude", b"*.\xff", "--itemize", "--stats"
        )
        assert done.returncode == 0, done.stderr
        lines = done.stdout.decode().splitlines()
        assert lines[:2] == [">f+++++++++ a\\#033b", ">f+++++++++ \\#377"]
        assert any("total bytes sent" in line for line in lines)
        assert lines[-1].startswith("dry run: up to date, in 0.50 s")
        assert done.stderr == b""
        (asked,) = sessions.jobs
        assert asked.source.path == os.fsencode(tmp_path / "src")
        assert asked.destination == job.Location("box", b"dst")
        assert asked.options == job.Options(delete=True, dry_run=True, itemize=True, excludes=(b"*.\xff",))
        assert sessions.environs[0]["PWD"] == str(tmp_path)
        assert sessions.environs[0]["PATH"] == os.environ["PATH"]


async def test_problems_are_listed_and_make_status_1(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli:
        problems = [(b"a\n", "vanished", 2), (b"dev", "special", 0)]
        cli.room.sessions.outcome = DONE._replace(problems=problems, problem_count=2)
        cli.room.sessions.go.set()
        done = await cli.run("pull", "box:x", "/y")
        assert done.returncode == 1
        assert done.stderr.decode().splitlines() == [
            "syncctl: a\\#012: vanished before it could be read: No such file or directory",
            "syncctl: dev: special file, skipped",
        ]
        assert b"2 problems" in done.stdout


async def test_an_error_is_two_lines_and_its_status(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli:
        cli.room.sessions.outcome = FAILED
        cli.room.sessions.go.set()
        done = await cli.run("push", "x", "box:y")
        assert (done.returncode, done.stdout) == (4, b"")
        assert done.stderr == b"syncctl: box: no route to host\n  look\n"


async def test_json(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli:
        cli.room.sessions.reports.append(job.Problems([(b"p\xff", "vanished", 2)]))
        cli.room.sessions.outcome = DONE._replace(problem_count=1)
        cli.room.sessions.go.set()
        done = await cli.run("push", "x", "box:y", "--json")
        assert (done.returncode, done.stderr) == (1, b"")
        values = [json.loads(line) for line in done.stdout.splitlines()]
        assert [value["t"] for value in values if value["t"] != "progress"] == ["accepted", "problems", "result"]
        cli.room.sessions.outcome = FAILED
        done = await cli.run("push", "x", "box:y", "--json")
        assert json.loads(done.stdout.splitlines()[-1]) == {
            "t": "error", "code": "unreachable", "message": "box: no route to host", "hint": "look", "exit": 4,
        }  # fmt: skip


async def test_profile(tmp_path: Path) -> None:
    stages = {"walk": {"spent_us": 1500, "first_us": 100, "last_us": 2100}}
    end = {"wall_us": 30_000, "cpu_us": 20_000, "stages": stages}
    async with open_cli(tmp_path) as cli:
        stats = {"listed_bytes": 3000}
        cli.room.sessions.outcome = DONE._replace(stats=stats, profile={"here": end, "there": {**end, "stages": {}}})
        cli.room.sessions.go.set()
        done = await cli.run("push", "x", "box:y", "--profile")
        assert (done.returncode, done.stderr) == (0, b"")
        head, walk, *_ = done.stdout.decode().splitlines()
        assert head.split()[:2] == ["stage", "here"]
        assert walk.split() == ["walk", "1.5", "ms", "0.1", "ms", "-", "2.1", "ms", "-"]
        assert cli.room.sessions.jobs[0].options == job.Options(profile=True)
        done = await cli.run("push", "x", "box:y", "--profile", "--json")
        result = json.loads(done.stdout.splitlines()[-1])
        assert result["profile"] == {"here": end, "there": {**end, "stages": {}}}
        assert result["speedup"] == 10.0


async def test_several_pairs(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        "[pair.a]\nsource='/a'\ndestination='box:a'\n[pair.b]\nsource='/b'\ndestination='box:b'\n"
    )
    async with open_cli(tmp_path) as cli:
        cli.room.sessions.go.set()
        done = await cli.run("sync", "a", "/b")
        assert (done.returncode, done.stderr) == (0, b"")
        assert [line.split(b":")[0] for line in done.stdout.splitlines()[::2]] == [b"a", b"b"]
        cli.room.sessions.outcome = FAILED
        done = await cli.run("sync", "a", "b")
        assert done.returncode == 4
        assert done.stderr.count(b"no route") == 2
        assert (await cli.run("sync")).returncode == 2


async def test_sync_within_a_directory_whose_name_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f"[pair.a]\nsource='{tmp_path}'\ndestination='box:a'\n")
    inside = os.fsencode(tmp_path) + b"/caf\xe9\n"
    os.mkdir(inside)
    async with open_cli(tmp_path) as cli:
        cli.cwd = inside  # type: ignore[assignment]
        cli.room.sessions.go.set()
        done = await cli.run("sync")
        assert (done.returncode, done.stderr) == (0, b"")


async def test_pairs_of_the_configuration(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli:
        assert (await cli.run("add", "site", "here", "box:there", "--mirror", "--exclude", "*.o")).returncode == 0
        listed = await cli.run("list")
        assert listed.stdout.decode() == f"site         {tmp_path}/here -> box:there  [mirror]  [exclude *.o]\n"
        values = json.loads((await cli.run("list", "--json")).stdout)
        assert values == {
            "name": "site", "source": f"{tmp_path}/here", "destination": "box:there", "mirror": True,
            "excludes": ["*.o"], "watch": False, "on_conflict": "overwrite", "problem_count": 0,
        }  # fmt: skip
        again = await cli.run("add", "site", "x", "box:y")
        assert again.returncode == 2
        assert b"there is a pair site already" in again.stderr
        assert (await cli.run("add", "new", b"caf\xe9", "box:y")).returncode == 2
        assert (await cli.run("remove", "site")).returncode == 0
        assert (await cli.run("remove", "site")).returncode == 2
        assert (await cli.run("list")).stdout == b""


async def test_status(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli:
        text = (await cli.run("status")).stdout.decode()
        assert f"agentd 9.9, pid {os.getpid()}" in text
        assert "box          up  openssh  1.0 ms" in text
        assert "no route" in text
        value = json.loads((await cli.run("status", "--json")).stdout)
        assert value["agent"]["pid"] == os.getpid()
        assert [link["host"] for link in value["links"]] == ["box", "far"]


@pytest.mark.parametrize("verb", ["status", "stop"])
async def test_without_an_agent(tmp_path: Path, verb: str) -> None:
    async with open_cli(tmp_path) as cli:
        cli.socket += "-none"
        done = await cli.run(verb)
        assert done.returncode == 3
        assert done.stderr == b"syncctl: no agent is running here\n  start it with 'syncctl start'\n"


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
async def test_closed_standard_streams(tmp_path: Path, closed: str) -> None:
    """As in a cron job or a hook; what is opened next must not get their numbers."""
    async with open_cli(tmp_path) as cli:
        cli.room.sessions.go.set()
        words = cli.command("push", "/from", "/to")
        shell = ["/bin/sh", "-c", f'"$@" {closed}', "sh", *words]
        with trio.fail_after(30):
            done = await trio.run_process(shell, capture_stdout=True, capture_stderr=True, check=False, **cli.options)
        assert (done.returncode, done.stderr) == (0, b"")
        assert bool(done.stdout) == ("1>" not in closed)


@pytest.mark.fault("E8")
async def test_an_interrupt_cancels_cleanly(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli, trio.open_nursery() as nursery:
        process = await cli.start(nursery, "push", "x", "box:y", capture_stderr=True)
        await cli.room.sessions.started.wait()
        process.send_signal(signal.SIGINT)
        with trio.fail_after(10):
            await cli.room.sessions.cancelled.wait()
            assert await process.wait() == 130


PATIENT = "from ctl import jobs; jobs._GRACE_S = 1e6; import tests.helpers.run_ctl"
"""It would wait for the end of its job for as long as that takes."""


@pytest.mark.fault("E8")
async def test_a_second_interrupt_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_cli(tmp_path) as cli, trio.open_nursery() as nursery:
        sessions = cli.room.sessions
        run_job = sessions.run_job

        async def stubborn(*words: Any) -> Any:
            try:
                return await run_job(*words)
            finally:
                with trio.CancelScope(shield=True):
                    await sessions.go.wait()

        monkeypatch.setattr(sessions, "run_job", stubborn)
        monkeypatch.setattr(cli, "command", lambda *words: [sys.executable, "-c", PATIENT, cli.socket, *words])
        process = await cli.start(nursery, "push", "x", "box:y", capture_stderr=True)
        await sessions.started.wait()
        process.send_signal(signal.SIGINT)
        with trio.fail_after(10):
            await sessions.cancelled.wait()
        try:
            process.send_signal(signal.SIGINT)
            with trio.fail_after(10):
                assert await process.wait() == 130
        finally:
            sessions.go.set()


@pytest.mark.fault("E8")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
async def test_a_killed_cli_cancels_its_job(tmp_path: Path, number: signal.Signals) -> None:
    async with open_cli(tmp_path) as cli, trio.open_nursery() as nursery:
        process = await cli.start(nursery, "push", "x", "box:y")
        await cli.room.sessions.started.wait()
        process.send_signal(number)
        with trio.fail_after(10):
            await cli.room.sessions.cancelled.wait()
            assert await process.wait() == -number


async def test_detach(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli:
        done = await cli.run("push", "x", "box:y", "--detach")
        assert (done.returncode, done.stdout) == (0, b"job 1\n")
        await cli.room.sessions.started.wait()
        assert b"running, detached" in (await cli.run("status")).stdout
        assert not cli.room.sessions.cancelled.is_set()


async def test_timeout(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli:
        done = await cli.run("push", "x", "box:y", "--timeout", "0.2")
        assert done.returncode == 5
        assert b"0.2 s" in done.stderr
        assert cli.room.sessions.cancelled.is_set()


async def test_an_agent_that_ends_is_said(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli, trio.open_nursery() as nursery:
        process = await cli.start(nursery, "push", "x", "box:y")
        await cli.room.sessions.started.wait()
        cli.serving.cancel()
        with trio.fail_after(10):
            assert await process.wait() == 3


async def test_stop_waits_for_the_end(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli, trio.open_nursery() as nursery:
        process = await cli.start(nursery, "stop")
        await cli.room.stopped.wait()
        assert process.poll() is None
        cli.serving.cancel()
        with trio.fail_after(10):
            assert await process.wait() == 0


async def test_events(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli, trio.open_nursery() as nursery:
        near, far = os.pipe()
        process = await cli.start(nursery, "events", stdout=far)
        os.close(far)
        async with trio.lowlevel.FdStream(near) as lines:
            await cli.room.server.events.wait_listened()
            cli.room.server.events.publish("test", "hello\x1b", job=3, host="box")
            text = await lines.receive_some()
        assert text.decode().rstrip().endswith("  test         job 3 box: hello\\x1b")
        process.terminate()


async def test_whoever_reads_may_leave(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli, trio.open_nursery() as nursery:
        cli.room.sessions.reports = [job.Items((b">f+++++++++ " + b"x" * 80 + b"\0") * 5000)]
        near, far = os.pipe()
        process = await cli.start(nursery, "push", "x", "box:y", "-i", stdout=far, capture_stderr=True)
        os.close(far)
        await cli.room.sessions.started.wait()
        os.close(near)
        with trio.fail_after(10):
            assert await process.wait() == 141
            await cli.room.sessions.cancelled.wait()


async def test_progress_on_a_terminal(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli, trio.open_nursery() as nursery:
        cli.room.sessions.reports = []
        screen, terminal = pty.openpty()
        process = await cli.start(nursery, "push", "x", "box:y", stderr=terminal, capture_stdout=True)
        os.close(terminal)
        await cli.room.sessions.started.wait()
        seen = b""
        async with trio.lowlevel.FdStream(screen) as stream:
            with trio.fail_after(10):
                while b"7/9 files" not in seen:
                    assert cli.room.sessions.report is not None
                    cli.room.sessions.report(job.Progress("syncing", {"files": 7, "wanted_files": 9, "bytes": 5}))
                    with trio.move_on_after(0.1):
                        seen += await stream.receive_some()
                cli.room.sessions.go.set()
                await process.wait()
                while not seen.endswith(b"\r\x1b[K"):
                    seen += await stream.receive_some()
        assert b"syncing  7/9 files" in seen
