"""The control server over real sockets, with fake sessions behind it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from agentd.control import outbox as outbox_module
from agentd.control import requests as requests_module
from proto import control, job, limits
from proto.control import (
    Accepted,
    AddPair,
    AgentInfo,
    Cancel,
    End,
    Error,
    Event,
    Events,
    Heartbeat,
    JobInfo,
    LinkInfo,
    ListPairs,
    Notice,
    PairInfo,
    Problems,
    RemovePair,
    Result,
    Run,
    Status,
    Stop,
    Sync,
    unpack_problems_untrusted,
)
from proto.frame import encode_frame
from proto.hello import Hello
from proto.job import Location
from proto.schema import to_head
from tests.helpers.control_room import AGENT, CLI, DONE, FAILED, Far, Room, open_room

if TYPE_CHECKING:
    from pathlib import Path

RUN = Run(7, b"/src", b"box:dst", {"PWD": "/here", "PATH": "/bin"}, delete=True, excludes=[b"*.o", b"\xff"])


async def jobs_of(room: Room) -> list[JobInfo]:
    far = await room.open(Status(1))
    rows = await far.until(End)
    await far.aclose()
    return [row for row in rows if isinstance(row, JobInfo)]


async def test_a_job_from_request_to_result(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        room.sessions.reports += [
            job.Notice("lost"),
            job.Items(b">f+++++++++ a\0"),
            job.Problems([(b"\xff", "special", 0)]),
        ]
        room.sessions.outcome = DONE._replace(
            problems=[(b"\xff", "special", 0), (b"z", "vanished", 2)], problem_count=2
        )
        far = await room.open(RUN)
        assert await far.receive() == Accepted(7, 1, b"/src", b"box:dst")
        assert await far.receive() == control.Progress(7, 1, "listing", {"listed": 3})
        assert await far.receive() == Notice(7, 1, "lost")
        assert await far.payload() == (control.Items(7, 1), bytearray(b">f+++++++++ a\0"))
        room.sessions.go.set()
        for problem in room.sessions.outcome.problems:
            message, payload = await far.payload()
            assert message == Problems(7, 1)
            assert unpack_problems_untrusted(payload) == [problem]
        assert await far.receive() == Result(7, 1, DONE.stats, 2, 1, 100, 200, 500_000)
        assert room.sessions.jobs == [
            job.Job(
                Location(None, b"/src"), Location("box", b"dst"), job.Options(delete=True, excludes=(b"*.o", b"\xff"))
            )
        ]
        assert room.sessions.environs == [{"PWD": "/here", "PATH": "/bin"}]
        assert [row.state for row in await jobs_of(room)] == ["done"]


async def test_a_lost_connection_cancels_its_job(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        far = await room.open(RUN)
        await room.sessions.started.wait()
        await far.aclose()
        await room.sessions.cancelled.wait()
        while (row := (await jobs_of(room))[0]).state == "running":
            await trio.lowlevel.checkpoint()
        assert row.state == "cancelled"


async def test_a_detached_job_stays(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        far = await room.open(RUN._replace(detach=True))
        assert (await far.receive()).remaining == 0
        await far.aclose()
        await room.sessions.started.wait()
        (row,) = await jobs_of(room)
        assert (row.job, row.state, row.detached, row.phase) == (1, "running", True, "listing")
        room.sessions.go.set()
        while (await jobs_of(room))[0].state != "done":
            await trio.lowlevel.checkpoint()
        assert not room.sessions.cancelled.is_set()


async def test_cancel_by_another_command(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        far = await room.open(RUN)
        await room.sessions.started.wait()
        other = await room.open(Cancel(1, 1), Cancel(2, 99))
        answers = {(message := await other.receive()).id: message for _ in range(2)}
        assert answers[1] == End(1)
        assert answers[2].code == "usage"
        assert (await far.until(Error))[-1].code == "cancelled"
        assert room.sessions.cancelled.is_set()


async def test_timeout(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with open_room(tmp_path) as room:
        far = await room.open(RUN._replace(timeout_ms=60_000))
        error = (await far.until(Error))[-1]
        assert (error.code, error.job) == ("timeout", 1)
        assert "60 s" in error.message
        assert room.sessions.cancelled.is_set()


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (FAILED, "unreachable"),
        (ExceptionGroup("two", [ValueError("x"), ExceptionGroup("in", [FAILED])]), "unreachable"),
        (ValueError("a defect"), "internal"),
    ],
)
async def test_a_job_that_fails(tmp_path: Path, outcome: Exception, code: str) -> None:
    async with open_room(tmp_path) as room:
        room.sessions.outcome = outcome
        room.sessions.go.set()
        far = await room.open(RUN)
        error = (await far.until(Error))[-1]
        assert (error.id, error.job, error.code, error.remaining) == (7, 1, code, 0)
        await far.send(ListPairs(8))
        assert await far.receive() == End(8)


@pytest.mark.parametrize(
    ("source", "destination"),
    [(b"a:b", b"c:d"), (b"rel", b"c:d"), (b"-a:x", b"/x"), (b"/x", b"c:")],
)
async def test_what_is_no_job(tmp_path: Path, source: bytes, destination: bytes) -> None:
    async with open_room(tmp_path) as room:
        far = await room.open(Run(3, source, destination))
        error = await far.receive()
        assert (error.id, error.code) == (3, "usage")
        assert not room.sessions.jobs


async def test_pairs(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(site)
    async with open_room(tmp_path) as room:
        room.sessions.go.set()
        far = await room.open(AddPair(1, "site", str(site), "box:/srv", True, ["*.o"]))
        assert await far.receive() == End(1)
        await far.send(AddPair(2, "sub", str(site / "sub"), "box:/sub"))
        assert await far.receive() == End(2)
        await far.send(AddPair(3, "sub", "/x", "box:/x"))
        assert (await far.receive()).code == "usage"
        await far.send(ListPairs(4))
        assert await far.receive() == PairInfo(4, "site", str(site), "box:/srv", True, ["*.o"])
        assert (await far.receive()).name == "sub"
        assert await far.receive() == End(4)

        async def synced(*targets: bytes, pwd: Path = tmp_path) -> list[str | None] | str:
            room.sessions.jobs.clear()
            await far.send(Sync(5, list(targets), {"PWD": str(pwd)}))
            while True:
                message = await far.receive()
                if isinstance(message, Result | Error) and not message.remaining:
                    return message.code if isinstance(message, Error) else [j.pair for j in room.sessions.jobs]

        assert await synced(b"site") == ["site"]
        assert room.sessions.jobs[0].options == job.Options(delete=True, excludes=(b"*.o",))
        assert await synced(b"sub", b"site", b"sub") == ["sub", "site"]
        assert await synced(bytes(site / "sub" / "file")) == ["sub"]
        assert await synced(bytes(site / "file")) == ["site"]
        assert await synced(bytes(tmp_path / "link" / "file")) == ["site"]
        assert await synced(pwd=site / "sub") == ["sub"]
        assert await synced(pwd=site) == ["site"]
        assert await synced(b"sub", pwd=site) == ["sub"]
        assert await synced(pwd=tmp_path) == "no-such-pair"
        assert await synced(b"nothing", pwd=site) == "no-such-pair"
        assert await synced(b"/etc") == "no-such-pair"
        await far.send(RemovePair(6, "site"))
        assert await far.receive() == End(6)
        await far.send(RemovePair(6, "site"))
        assert (await far.receive()).code == "no-such-pair"


async def test_pairs_of_one_request_run_one_after_the_other_and_an_error_ends_only_its_own(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        "[pair.a]\nsource='/a'\ndestination='box:a'\n[pair.b]\nsource='/b'\ndestination='box:b'\n"
    )
    async with open_room(tmp_path) as room:
        room.sessions.outcome = FAILED
        far = await room.open(Sync(1, [b"a", b"b"]))
        await room.sessions.started.wait()
        assert [row.state for row in await jobs_of(room)] == ["running", "waiting"]
        room.sessions.go.set()
        errors = [(await far.until(Error))[-1] for _ in range(2)]
        assert [(e.job, e.remaining) for e in errors] == [(1, 1), (2, 0)]


async def test_status(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        room.config_path.write_text("[nonsense]\n")
        far = await room.open(Status(4))
        agent, *links, end = await far.until(End)
        assert isinstance(agent, AgentInfo)
        assert (agent.version, agent.sockets, agent.config) == ("9.9", ["/run/x"], str(room.config_path))
        assert agent.rss_kib > 1000
        assert "config.toml:1" in (agent.config_error or "")
        assert links == [
            LinkInfo(4, "box", "up", "openssh", 1000, "9.9"),
            LinkInfo(4, "far", "failed", None, None, None, "no route"),
        ]
        assert end == End(4)


async def test_stop_is_confirmed_before_it_happens(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        far = await room.open(Stop(1))
        assert await far.receive() == End(1)
        await room.stopped.wait()


async def test_events_resume_without_gaps(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        room.sessions.go.set()
        far = await room.open(Events(1))
        assert await far.receive() == Heartbeat(1, 0)
        other = await room.open(RUN)
        await other.until(Result)
        seen = [await far.receive() for _ in range(3)]
        assert [(e.seq, e.kind, e.job) for e in seen] == [
            (1, "job-started", 1),
            (2, "job-phase", 1),
            (3, "job-done", 1),
        ]
        await far.aclose()
        again = await room.open(Events(1, after=1))
        await again.receive()
        assert [(await again.receive())._replace(id=1) for _ in range(2)] == seen[1:]
        stranger = await room.open(Events(1, after=1000))
        await stranger.receive()
        missed = await stranger.receive()
        assert (missed.kind, missed.seq) == ("missed", 0)
        assert await stranger.receive() == seen[0]


async def test_events_that_are_no_longer_kept(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        for n in range(1500):
            room.server.events.publish("test", str(n))
        far = await room.open(Events(1, after=5))
        await far.receive()
        missed, first = await far.receive(), await far.receive()
        assert (missed.kind, missed.seq) == ("missed", 1500 - 1024)
        assert (first.seq, first.text) == (1500 - 1023, str(1500 - 1024))


async def test_heartbeats(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with open_room(tmp_path) as room:
        far = await room.open(Events(1))
        start = trio.current_time()
        assert [await far.receive() for _ in range(3)] == [Heartbeat(1, 0)] * 3
        assert trio.current_time() - start == pytest.approx(2 * requests_module.HEARTBEAT_S)


async def test_links_and_configuration_are_events(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        far = await room.open(Events(1))
        await far.receive()
        room.links.rows[0] = room.links.rows[0]._replace(state="waiting", error="lost")
        event = await far.receive()
        assert (event.kind, event.host, event.text) == ("link", "box", "waiting (lost)")
        room.config_path.write_text("[nonsense]\n")
        assert (await far.receive()).kind == "config-refused"
        room.config_path.write_text("[ssh]\n")
        assert (await far.receive()).kind == "config"


@pytest.mark.fault("G9")
async def test_a_reader_of_events_who_does_not_read_is_disconnected(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        far = await room.open(Events(1))
        await far.receive()
        with trio.fail_after(20):
            # never waited for: publishing goes on at once, whatever the reader does
            for n in range(4 * outbox_module.MESSAGES_MAX):
                room.server.events.publish("test", "x" * 500, job=n)
                if n % 64 == 0:
                    await trio.lowlevel.checkpoint()
            await far.wait_closed()


@pytest.mark.fault("G9")
async def test_who_asks_and_does_not_read_is_not_read_either(tmp_path: Path) -> None:
    """What waits for it stays bounded, however much it asks; a reader gets every answer."""
    several = requests_module.REQUESTS_MAX // 2
    asked = 6 * outbox_module.MESSAGES_MAX
    sent = 0
    async with open_room(tmp_path) as room:
        far = await room.open()

        async def ask() -> None:
            nonlocal sent
            while sent < asked:
                await far.send(*(Cancel(sent + n, 7777) for n in range(several)))
                sent += several
                await trio.testing.wait_all_tasks_blocked()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.5)  # the agent takes no more
            assert outbox_module.MESSAGES_MAX < sent < asked
            answers = [await far.receive() for _ in range(asked)]
        assert sorted(answer.id for answer in answers) == list(range(asked))


@pytest.mark.fault("G9")
async def test_items_that_nobody_reads_are_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "BULK_MAX", 4 << 20)
    async with open_room(tmp_path) as room:
        line = b">f+++++++++ " + b"x" * 243 + b"\0"
        room.sessions.reports = [job.Items(line * (1 << 15)) for _ in range(2)]  # 8 MiB each
        room.sessions.go.set()
        far = await room.open(RUN)
        assert isinstance(await far.receive(), Accepted)
        lines = 0
        messages: list[Any] = []
        while not messages or not isinstance(messages[-1], Result):
            message, payload = await far.payload()
            messages.append(message)
            if isinstance(message, control.Items):
                assert len(payload) <= limits.CONTROL_PAYLOAD_MAX
                assert bytes(payload).endswith(b"\0")
                lines += bytes(payload).count(b"\0")
        notice = messages[-2]
        assert 0 < lines < 1 << 16
        assert isinstance(notice, Notice)
        assert "not shown" in notice.text


async def test_only_the_newest_progress_is_kept(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        room.sessions.reports = [job.Progress("syncing", {"files": n}) for n in range(1000)]
        far = await room.open(RUN)
        await far.receive()
        assert await far.receive() == control.Progress(7, 1, "syncing", {"files": 999})


def _frame(head: object, *, length: int | None = None, head_len: int | None = None) -> bytes:
    import cbor2

    body = cbor2.dumps(head)
    return (
        (4 + len(body) if length is None else length).to_bytes(4, "big")
        + (len(body) if head_len is None else head_len).to_bytes(4, "big")
        + body
    )


STATUS = to_head(Status(1))
_whole = _frame(STATUS)

BAD = {
    "length 0": _frame(STATUS, length=0),
    "head length 0": _frame(STATUS, head_len=0),
    "beyond the head's cap": _frame(STATUS, length=limits.HEAD_MAX + 5, head_len=limits.HEAD_MAX + 1),
    "a payload": _frame(STATUS, length=4 + len(_whole) - 8 + 1) + b"x",
    "huge": b"\x7f\xff\xff\xff" * 3,
    "no map": _frame([1]),
    "keys that are no text": _frame({"t": "status", 1: 2}),
    "unknown message": _frame({"t": "explode", "id": 1}),
    "an answer": _frame({"t": "end", "id": 1}),
    "a second hello": _frame(to_head(CLI)),
    "a field too many": _frame({"t": "status", "id": 1, "x": 1}),
    "a field too few": _frame({"t": "status"}),
    "a wrong type": _frame({"t": "status", "id": "1"}),
    "a bool for a number": _frame({"t": "status", "id": True}),
    "out of range": _frame({"t": "status", "id": 1 << 32}),
    "text for bytes": _frame({"t": "run", "id": 1, "source": "/a", "destination": b"/b"}),
    "a NUL in a path": _frame({"t": "run", "id": 1, "source": b"/a\0", "destination": b"/b"}),
    "an unknown variable": _frame(
        {"t": "run", "id": 1, "source": b"/a", "destination": b"/b", "env": {"LD_PRELOAD": "x"}}
    ),
    "too long a path": _frame({"t": "run", "id": 1, "source": b"/" * 9999, "destination": b"/b"}),
    "no CBOR": b"\0\0\0\x06\0\0\0\x02\xff\xff",
    "bytes behind the head": b"\0\0\0\x07\0\0\0\x03\xa0\xa0\xa0",
    "the same request twice": encode_frame(to_head(RUN)) * 2,
}


@pytest.mark.parametrize("name", BAD)
async def test_what_breaks_the_protocol_is_said_and_ends_the_connection(tmp_path: Path, name: str) -> None:
    async with open_room(tmp_path) as room:
        far = await room.open()
        await far.stream.send_all(BAD[name])
        while (error := await far.receive()) and not isinstance(error, Error):
            pass
        assert (error.id, error.code) == (0, "protocol")
        await far.wait_closed()
        await jobs_of(room)


async def test_a_head_at_its_cap_is_taken(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        room.sessions.go.set()
        pattern = b"x" * 4096
        run = RUN._replace(excludes=[pattern] * 15)
        missing = limits.HEAD_MAX - len(encode_frame(to_head(run._replace(excludes=[*run.excludes, b"x"])))) + 8 - 2
        run = run._replace(excludes=[*run.excludes, b"x" * (missing + 1)])
        assert len(encode_frame(to_head(run))) - 8 == limits.HEAD_MAX
        far = await room.open(run)
        await far.until(Result)


async def test_truncated_and_flipped_frames_leave_the_server_well(tmp_path: Path) -> None:
    whole = encode_frame(to_head(RUN))
    async with open_room(tmp_path) as room:
        for end in range(0, len(whole), 7):
            far = await room.open()
            await far.stream.send_all(whole[:end])
            await far.stream.send_eof()
            await far.wait_closed()
            await far.aclose()
        for bit in range(0, len(whole) * 8, 5):
            far = await room.open()
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            await far.stream.send_all(flipped)
            await far.stream.send_eof()
            await far.wait_closed()
            await far.aclose()
        await jobs_of(room)


async def test_strangers(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        far = Far(room.connect())
        await far.send(Hello("agent", 1, 1, "x", agent=bytes(16)))
        assert await far.receive() == AGENT
        assert (await far.receive()).code == "protocol"
        far = Far(room.connect())
        await far.send(Hello("cli", 7, 9, "x"))
        assert await far.receive() == AGENT
        assert (await far.receive()).code == "incompatible"
        far = Far(room.connect())
        await far.send(Status(1))
        assert await far.receive() == AGENT
        assert (await far.receive()).code == "protocol"


@pytest.mark.fault("F7")
@pytest.mark.parametrize("said", [b"", b"\0\0\0", b'{"t":'])
async def test_a_hello_has_a_deadline(tmp_path: Path, said: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with open_room(tmp_path) as room:
        stream = room.connect()
        start = trio.current_time()
        if said:
            await stream.send_all(said)
        while await stream.receive_some():
            pass
        assert trio.current_time() - start <= 2 * limits.HELLO_DEADLINE_S


@pytest.mark.fault("F7")
@pytest.mark.parametrize("said", [b"\0\0\0\x06", b'{"t":'])
async def test_what_was_begun_has_to_end(tmp_path: Path, said: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with open_room(tmp_path) as room:
        far: Any = await (room.open_lines() if said.startswith(b"{") else room.open())
        await far.stream.send_all(said)
        error = await far.receive()
        assert "begun" in (error["message"] if isinstance(error, dict) else error.message)


async def test_a_connection_too_many(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        held = [await room.open() for _ in range(limits.CONNECTIONS_MAX)]
        far = Far(room.connect())
        await far.send(CLI, Status(1))
        assert await far.receive() == AGENT
        assert (await far.receive()).code == "agent-busy"
        for one in held:
            await one.aclose()


async def test_json_lines(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        far = await room.open_lines()
        odd = base64.b64encode(b"/d\xff").decode()
        room.sessions.reports = [job.Items(b">f+++++++++ a\0cd+++++++++ \xff\0"), job.Problems([(b"p", "vanished", 2)])]
        room.sessions.outcome = DONE._replace(problem_count=1)
        await far.send(
            {"t": "run", "id": 1, "source": "/s", "destination_b64": odd, "excludes": ["a", {"b64": "/w=="}]},
            {"t": "status", "id": 2},
        )
        await room.sessions.started.wait()
        room.sessions.go.set()
        found: list[dict[str, Any]] = []
        while {"result", "end"} - {value["t"] for value in found}:
            found.append(await far.receive())
        by_tag = {value["t"]: value for value in found}
        assert by_tag["accepted"] == {
            "t": "accepted", "id": 1, "job": 1, "source": "/s", "destination_b64": odd, "remaining": 0,
        }  # fmt: skip
        assert by_tag["items"]["items"] == [
            {"change": ">f+++++++++", "path": "a"},
            {"change": "cd+++++++++", "path_b64": "/w=="},
        ]
        assert by_tag["problems"]["problems"][0]["path"] == "p"
        assert by_tag["result"]["problem_count"] == 1
        assert by_tag["agent-info"]["id"] == 2
        assert room.sessions.jobs[0].destination == Location(None, b"/d\xff")
        assert room.sessions.jobs[0].options.excludes == (b"a", b"\xff")


async def test_a_json_request_that_makes_no_sense_is_answered_and_the_connection_goes_on(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        far = await room.open_lines()
        for value in (
            {"t": "explode", "id": 3},
            {"t": "status", "id": 3, "more": 1},
            {"t": "run", "id": 3, "source": 1, "destination": "/x"},
            {"t": "run", "id": 3, "source_b64": "?", "destination": "/x"},
            {"t": "run", "id": 3, "source": "/x", "source_b64": "eA==", "destination": "/x"},
            {"t": "run", "id": 3, "source": "\ud800", "destination": "/x"},
            {"t": "sync", "id": 3, "targets": [1]},
            {"t": "cancel", "id": 3, "job": 1.5},
        ):
            await far.send(value)
            error = await far.receive()
            assert (error["t"], error["id"], error["code"]) == ("error", 3, "protocol")
        await far.stream.send_all(b"\n  \n")
        await far.send({"t": "list-pairs", "id": 4})
        assert await far.receive() == {"t": "end", "id": 4}


@pytest.mark.parametrize(
    "line",
    [b"{", b"[]", b'{"t":"status","t":"status","id":1}', b'{"id":NaN}', b'{"a":' * 100_000, b"\xff", b"x" * 300_000],
)
async def test_a_line_that_is_no_request_ends_the_connection(tmp_path: Path, line: bytes) -> None:
    async with open_room(tmp_path) as room:
        far = await room.open_lines()
        with trio.move_on_after(5):
            try:
                await far.stream.send_all(line + b"\n")
            except trio.BrokenResourceError:
                pass
        error = await far.receive()
        assert (error["id"], error["code"]) == (0, "protocol")
        with pytest.raises((EOFError, trio.BrokenResourceError)):
            await far.receive()
        await jobs_of(room)


async def test_a_connection_cut_while_everything_happens_leaves_nothing(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        far = await room.open_lines()
        await far.send({"t": "events", "id": 1}, {"t": "run", "id": 2, "source": "/s", "destination": "/d"})
        await room.sessions.started.wait()
        await far.stream.aclose()
        await room.sessions.cancelled.wait()
        room.server.events.publish("test", "nobody listens")
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance((await room.open(Events(1, after=0))).stream, trio.SocketStream)


def test_an_event_is_a_message() -> None:
    Event(1, 1, 1, "kind", "text").validate()
