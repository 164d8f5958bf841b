"""Single paths, and watched pairs, over the control socket, with fake sessions and trees behind it."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from proto.control import (
    Accepted,
    End,
    Error,
    Event,
    Flush,
    Heartbeat,
    ListPairs,
    PairInfo,
    Paths,
    Pause,
    Result,
    Resume,
    Sync,
    Watch,
)
from proto.looks import unpack_looks
from tests.helpers.control_room import DONE, FAILED, Far, Room, open_room

if TYPE_CHECKING:
    from pathlib import Path


def write_config(path: Path, **pairs: str) -> None:
    text = ""
    for name, more in pairs.items():
        (path / name).mkdir(exist_ok=True)
        text += f"[pair.{name}]\nsource = '{path / name}'\ndestination = 'box:{name}'\n{more}\n"
    (path / "config.toml").write_text(text)


def targets(*paths: Path) -> list[bytes]:
    return [os.fsencode(path) for path in paths]


def fates(answers: list[Any]) -> dict[str, list[bytes]]:
    return {answer.fate: answer.paths for answer in answers if isinstance(answer, Paths)}


def scopes(room: Room) -> list[Any]:
    return [None if job.scope is None else unpack_looks(job.scope) for job in room.sessions.jobs]


async def last(far: Far) -> list[Any]:
    """The answers up to the request's last."""
    found: list[Any] = []
    while True:
        found.append(await far.receive())
        if isinstance(found[-1], Result | Error | End) and not getattr(found[-1], "remaining", 0):
            return found


async def pair(room: Room, name: str) -> PairInfo:
    far = await room.open(ListPairs(1))
    found = [row for row in await far.until(End) if isinstance(row, PairInfo) and row.name == name]
    await far.aclose()
    return found[0]


async def test_paths_are_looks_of_their_pairs(tmp_path: Path) -> None:
    write_config(tmp_path, a="exclude = ['*.o']", b="")
    for name in ("a/sub/deep", "a/sub/other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a/file").touch()
    (tmp_path / "a/link").symlink_to("/nowhere")
    (tmp_path / "a/main.o").touch()
    async with open_room(tmp_path) as room:
        room.sessions.go.set()
        asked = [tmp_path / name for name in ("a/file", "b/gone", "a/sub", "a/link", "a/no/such/place", "a/main.o")]
        far = await room.open(Sync(1, targets(*asked)))
        answers = await last(far)
        assert sorted(scopes(room)) == [
            [(b"file", False), (b"sub", True), (b"link", False), (b"no", False), (b"main.o", False)],
            [(b"gone", False)],
        ]
        landed = [path for answer in answers if isinstance(answer, Paths) and answer.fate == "landed"
                  for path in answer.paths]  # fmt: skip
        assert sorted(landed) == sorted(targets(*(path for path in asked if path.name != "main.o")))
        assert fates(answers)["excluded"] == targets(tmp_path / "a/main.o")
        assert all(job.options.excludes == ((b"*.o",) if job.pair == "a" else ()) for job in room.sessions.jobs)


@pytest.mark.parametrize("request_", ["root", "name", "whole", "nothing"])
async def test_what_is_a_whole_pair(tmp_path: Path, request_: str) -> None:
    write_config(tmp_path, a="")
    inside = tmp_path / "a/inside"
    inside.mkdir(parents=True)
    async with open_room(tmp_path) as room:
        room.sessions.go.set()
        message = {
            "root": Sync(1, targets(tmp_path / "a")),
            "name": Sync(1, [b"a"]),
            "whole": Sync(1, targets(inside), whole=True),
            "nothing": Sync(1, env={"PWD": str(inside)}),
        }[request_]
        answers = await last(await room.open(message))
        assert scopes(room) == [None]
        assert not fates(answers)


async def test_what_became_of_each_path(tmp_path: Path) -> None:
    write_config(tmp_path, a="")
    names = ["fine", "dir", "mine", "torn"]
    async with open_room(tmp_path) as room:
        problems = [(b"dir/inner", "unreadable", 13), (b"mine", "changed-here", 0), (b"torn", "write", 5)]
        room.sessions.outcome = DONE._replace(problems=problems, problem_count=3)
        room.sessions.go.set()
        far = await room.open(Sync(1, targets(*(tmp_path / "a" / name for name in names))))
        assert fates(await last(far)) == {
            "landed": targets(tmp_path / "a/fine"),
            "failed": targets(tmp_path / "a/dir", tmp_path / "a/torn"),
            "held": targets(tmp_path / "a/mine"),
        }
        room.sessions.outcome = DONE._replace(problems=problems, problem_count=9999)
        await far.send(Sync(2, targets(tmp_path / "a/fine")))
        assert fates(await last(far)) == {"open": targets(tmp_path / "a/fine")}
        room.sessions.outcome = FAILED
        await far.send(Sync(3, targets(tmp_path / "a/fine")))
        answers = await last(far)
        assert fates(answers) == {"open": targets(tmp_path / "a/fine")}
        assert answers[-1].code == "unreachable"


@pytest.mark.parametrize("timeout_ms", [None, 300])
async def test_paths_are_answered_in_time_however_long_the_end_takes(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, timeout_ms: int | None
) -> None:
    write_config(tmp_path, a="", b="")
    async with open_room(tmp_path) as room:

        async def stuck(*_: object) -> Any:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(2)

        monkeypatch.setattr(room.sessions, "run_job", stuck)
        far = await room.open(Sync(1, targets(tmp_path / "a/x", tmp_path / "b/y"), timeout_ms=timeout_ms))
        assert isinstance(await far.receive(), Accepted)
        asked = trio.current_time()
        answers = await last(far)
        assert trio.current_time() - asked == pytest.approx(10 if timeout_ms is None else 0.3, abs=0.05)
        assert [answer.code for answer in answers if isinstance(answer, Error)] == ["timeout", "timeout"]
        assert sorted(path for answer in answers if isinstance(answer, Paths) for path in answer.paths) == targets(
            tmp_path / "a/x", tmp_path / "b/y"
        )


async def test_many_paths_with_long_names_fit_into_answers(tmp_path: Path) -> None:
    write_config(tmp_path, a="")
    names = [tmp_path / "a" / (f"{number:03}" + "n" * 190) for number in range(200)]
    async with open_room(tmp_path) as room:
        room.sessions.go.set()
        far = await room.open(Sync(1, targets(*names)))
        answers = [answer for answer in await last(far) if isinstance(answer, Paths)]
        assert len(answers) > 1
        assert [path for answer in answers for path in answer.paths] == targets(*names)


async def test_a_path_does_not_wait_for_its_pair(tmp_path: Path) -> None:
    write_config(tmp_path, a="")
    async with open_room(tmp_path) as room:
        far = await room.open(Sync(1, [b"a"]), Sync(2, [b"a"]))
        await room.sessions.started.wait()
        other = await room.open(Sync(1, targets(tmp_path / "a/x")))
        while len(room.sessions.jobs) < 2:
            await trio.lowlevel.checkpoint()
        assert scopes(room) == [None, [(b"x", False)]], "the second job of the whole pair waits, the path does not"
        room.sessions.go.set()
        await last(other)
        for _ in range(2):
            await last(far)
        assert scopes(room)[2:] in ([[(b"x", False)], None], [None])


async def test_watch_tells_of_one_pair_and_ends_with_its_connection(tmp_path: Path) -> None:
    write_config(tmp_path, a="", b="")
    async with open_room(tmp_path) as room:
        room.sessions.go.set()
        far = await room.open(Watch(1, "a", {"PATH": "/mine"}))
        assert isinstance(await far.receive(), Heartbeat)
        room.server.events.publish("synced", "not mine", pair="b")
        events = [await far.receive()]
        while not any(event.text == "up-to-date" for event in events):
            events.append(await far.receive())
        assert all(isinstance(event, Event) and event.pair == "a" for event in events)
        assert [event.kind for event in events if event.kind == "synced"] == ["synced"]
        assert (await pair(room, "a")).state == "up-to-date"
        assert room.sessions.environs == [{"PATH": "/mine"}]
        await far.aclose()
        while (await pair(room, "a")).state is not None:
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("message", [Watch(1, "b"), Watch(1, "c"), Pause(1, "a"), Resume(1, "a"), Flush(1, ["a"])])
async def test_what_cannot_be_watched_is_said(tmp_path: Path, message: Any) -> None:
    write_config(tmp_path, a="")
    with (tmp_path / "config.toml").open("a") as file:
        file.write("[pair.b]\nsource = 'box:x'\ndestination = '/x'\n")
    async with open_room(tmp_path) as room:
        far = await room.open(message)
        error = (await far.until(Error))[-1]
        assert error.code in ("usage", "no-such-pair")
        assert not room.sessions.jobs


async def test_pause_resume_and_flush(tmp_path: Path) -> None:
    write_config(tmp_path, a="watch = true", b="watch = true", c="")
    async with open_room(tmp_path) as room:
        room.sessions.go.set()
        for name in ("a", "b"):
            while (await pair(room, name)).state != "up-to-date":
                await trio.lowlevel.checkpoint()
        far = await room.open(Pause(1, "a"))
        assert await far.receive() == End(1)
        state = await pair(room, "a")
        assert (state.state, state.why) == ("paused", "by 'syncctl pause'")
        assert state.synced_ms is not None
        await far.send(Flush(2))
        answers = await last(far)
        assert [answer.pair for answer in answers if isinstance(answer, Accepted)] == ["b"]
        assert [type(answer) for answer in answers if isinstance(answer, Result | Error)] == [Result, Error]
        assert answers[-1].code == "paused"
        await far.send(Resume(3, "a"))
        assert await far.receive() == End(3)
        while (await pair(room, "a")).state != "up-to-date":
            await trio.lowlevel.checkpoint()
        await far.send(Flush(4, ["a"]))
        assert isinstance((await last(far))[-1], Result)


async def test_flush_of_nothing(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        far = await room.open(Flush(1))
        assert await far.receive() == End(1)


async def test_paths_in_json(tmp_path: Path) -> None:
    write_config(tmp_path, a="")
    odd = os.fsencode(tmp_path) + b"/a/caf\xe9"
    async with open_room(tmp_path) as room:
        room.sessions.go.set()
        far = await room.open_lines()
        coded = {"b64": base64.b64encode(odd).decode()}
        await far.send({"t": "sync", "id": 1, "targets": [coded, str(tmp_path / "a/plain")]})
        answers = await far.until("result")
        (said,) = [answer for answer in answers if answer["t"] == "paths"]
        assert said["fate"] == "landed"
        assert said["paths"] == [coded, str(tmp_path / "a/plain")]
