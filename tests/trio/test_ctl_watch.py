"""syncctl's verbs about watched pairs and single paths, as a process against a control server with fakes behind it."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import TYPE_CHECKING

import trio

from proto import job
from tests.helpers.control_room import DONE, FAILED
from tests.trio.test_ctl import Cli, open_cli

if TYPE_CHECKING:
    from pathlib import Path


def write_config(path: Path, more: str = "") -> None:
    (path / "a").mkdir(exist_ok=True)
    (path / "config.toml").write_text(f"[pair.a]\nsource='{path}/a'\ndestination='box:a'\nexclude=['*.o']\n{more}\n")


async def until_state(cli: Cli, state: str) -> None:
    with trio.fail_after(20):
        while (condition := cli.room.watchers.condition("a")) is None or condition.state != state:
            await trio.lowlevel.checkpoint()


async def test_a_path(tmp_path: Path) -> None:
    write_config(tmp_path)
    async with open_cli(tmp_path) as cli:
        cli.room.sessions.go.set()
        done = await cli.run("sync", "a/file", "a/x.o")
        assert (done.returncode, done.stderr.decode()) == (0, f"syncctl: {tmp_path}/a/x.o: the pair excludes it\n")
        cli.room.sessions.outcome = DONE._replace(problems=[(b"file", "changed-here", 0)], problem_count=1)
        done = await cli.run("sync", "a/file")
        assert done.returncode == 1
        assert b"was changed at the destination by someone else" in done.stderr
        cli.room.sessions.outcome = FAILED
        done = await cli.run("sync", "a/file", "--json")
        assert done.returncode == 4
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert {"fate": "open", "paths": [f"{tmp_path}/a/file"]}.items() <= rows[-2].items()
        assert rows[-1]["t"] == "error"


async def test_a_path_that_takes_too_long(tmp_path: Path) -> None:
    write_config(tmp_path)
    async with open_cli(tmp_path) as cli:
        done = await cli.run("sync", "a/file", "--timeout", "0.2")
        assert done.returncode == 5
        assert done.stderr.decode().splitlines()[0] == f"syncctl: {tmp_path}/a/file: not done"


async def test_verify(tmp_path: Path) -> None:
    write_config(tmp_path)
    async with open_cli(tmp_path) as cli:
        sessions = cli.room.sessions
        sessions.go.set()
        done = await cli.run("verify", "a")
        assert (done.returncode, done.stdout) == (0, b"both ends are the same\n")
        options = sessions.jobs[-1].options
        assert (options.checksum, options.dry_run, options.itemize, options.reread) == (True,) * 4
        sessions.reports.append(job.Items(b"<fc........ file\0"))
        done = await cli.run("verify", "a")
        assert (done.returncode, done.stdout) == (1, b"<fc........ file\nsomething differs, see above\n")
        assert (await cli.run("verify", "a", "--json")).returncode == 1
        done = await cli.run("verify", "a", "--repair")
        assert done.returncode == 0
        assert not sessions.jobs[-1].options.dry_run
        assert (await cli.run("verify")).returncode == 2


async def test_watch_prints_what_happens_until_it_is_interrupted(tmp_path: Path) -> None:
    write_config(tmp_path)
    async with open_cli(tmp_path) as cli, trio.open_nursery() as nursery:
        cli.room.sessions.go.set()
        process = await cli.start(nursery, "watch", "a", stdout=subprocess.PIPE)
        assert process.stdout is not None
        said = b""
        while b"up-to-date" not in said:
            said += await process.stdout.receive_some()
        assert b"synced       a: 2 files" in said
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
        with trio.fail_after(20):
            while cli.room.watchers.condition("a") is not None:
                await trio.lowlevel.checkpoint()


async def test_pause_resume_flush_and_a_line_for_a_status_bar(tmp_path: Path) -> None:
    write_config(tmp_path, "watch = true")
    async with open_cli(tmp_path) as cli:
        cli.room.sessions.go.set()
        await until_state(cli, "up-to-date")
        name, state, problems, synced, why = (await cli.run("status", "--porcelain")).stdout.decode().split("\t")
        assert (name, state, problems, why) == ("agent", "up-to-date", "0", "\n")
        assert int(synced) > 1_600_000_000
        assert (await cli.run("flush")).returncode == 0
        assert (await cli.run("pause", "a")).returncode == 0
        line = (await cli.run("status", "--porcelain", "a")).stdout.decode().split("\t")
        assert (line[0], line[1], line[4]) == ("a", "paused", "by 'syncctl pause'\n")
        done = await cli.run("flush", "a")
        assert done.returncode == 6
        assert b"pair a is paused" in done.stderr
        assert b"[exclude *.o]  paused: by 'syncctl pause'" in (await cli.run("status")).stdout
        assert (await cli.run("resume", "a")).returncode == 0
        await until_state(cli, "up-to-date")
        assert (await cli.run("status", "--porcelain", "b")).returncode == 2


async def test_nothing_is_watched(tmp_path: Path) -> None:
    write_config(tmp_path)
    async with open_cli(tmp_path) as cli:
        done = await cli.run("flush")
        assert (done.returncode, done.stderr) == (0, b"syncctl: no pair is watched\n")
        assert (await cli.run("status", "--porcelain")).stdout == b"agent\tidle\t0\t-\t\n"
        assert (await cli.run("pause", "a")).returncode == 2
        cli.serving.cancel()
    done = await cli.run("status", "--porcelain", "a")
    assert (done.returncode, done.stdout) == (3, b"a\tdown\t0\t-\t\n")
