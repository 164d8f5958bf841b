"""The control socket's messages and docs/protocol.md's CDDL say the same."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from proto.control import (
    CONTROL_REPLIES,
    CONTROL_REQUESTS,
    Accepted,
    AddPair,
    AgentInfo,
    Cancel,
    End,
    Error,
    Event,
    Events,
    Flush,
    Heartbeat,
    Items,
    JobInfo,
    LinkInfo,
    ListPairs,
    Notice,
    PairInfo,
    Paths,
    Pause,
    Problems,
    Progress,
    RemovePair,
    Result,
    Resume,
    Run,
    Status,
    Stop,
    Sync,
    Trash,
    Trashed,
    TrashEntry,
    Watch,
)
from proto.errors import RemoteProtocolError
from proto.job import ENVIRONMENT
from proto.schema import from_head_untrusted, tag_of, to_head
from tests.unit.test_cddl import PROFILE, fits, rules

if TYPE_CHECKING:
    from proto.schema import Message, Registry

ENV = dict.fromkeys(ENVIRONMENT, "x")
FLAGS = (True,) * 9
REQUESTS: list[Any] = [
    Run(0, b"/a", b"box:\xff"), Run((1 << 32) - 1, b"/a", b"b", ENV, *FLAGS, 7, [b"*.o"], 1, True, "auto", "never", 9),
    Sync(1), Sync(1, [b"site", b"/x"], ENV, *FLAGS, 0, [b"a"], 5000, True, None, True, True, "never", 0),
    Flush(1),
    Flush(1, ["site"], ENV, 5000), Watch(1, "site"), Watch(1, "site", ENV, 7), Pause(1, "site"), Resume(1, "site"),
    Cancel(1, 2), Status(1), ListPairs(1),
    AddPair(1, "a", "/a", "b:c"), AddPair(1, "a", "/a", "b:c", True, ["x"], True, "stop", "30d"),
    RemovePair(1, "a"),
    Events(1),
    Events(1, 7), Stop(1), Trash(1, "list", b"a"), Trash(1, "restore", b"/a", [b"x\xff"], "b", ENV),
]  # fmt: skip
ANSWERS: list[Any] = [
    Accepted(1, 2, b"/a", b"b:c"), Accepted(1, 2, b"/a", b"b:c", "site", 3), Progress(1, 2, "listing", {"listed": 1}),
    Items(1, 2), Problems(1, 2), Notice(1, 2, "text"), Result(1, 2, {"files": 1}, 0, 1, 2, 3, 4),
    Result(1, 2, {}, 0, 1, 2, 3, 4, 0, {"here": PROFILE, "there": PROFILE}),
    Error(0, "protocol", "text"), Error(1, "timeout", "text", "hint", 2, 1), End(1),
    AgentInfo(1, 2, "0.1", 3, 4, "/c", ["/s"]), AgentInfo(1, 2, "0.1", 3, 4, "/c", [], "bad", "on", 7, 1),
    LinkInfo(1, "box", "up"), LinkInfo(1, "box", "up", "openssh", 5, "0.1", "lost"),
    PairInfo(1, "a", "/a", "b:c", False, []),
    PairInfo(1, "a", "/a", "b:c", True, ["x"], True, "keep-both", "held", "git", 1, 2), Paths(1, 2, "landed", [b"/a"]),
    JobInfo(1, 2, "running", b"/a", b"b", 3, "", {}, 0, False),
    JobInfo(1, 2, "failed", b"/a", b"b", 3, "x", {"a": 1}, 4, True, "site", "text"), Event(1, 2, 3, "link", "up"),
    Event(1, 2, 3, "job-done", "x", 4, "site", "box", "code", {"files": 1}), Heartbeat(1, 2),
    TrashEntry(1, "b", b"x", 2, False), Trashed(1, 2), Trashed(1, 2, [b"x"], [b"y"]),
]  # fmt: skip
_SHARED = {"cancel", "progress", "items", "problems", "error"}
"""Tags that the page's peer messages have too, or might."""


def rule_of(message: Message) -> str:
    tag = tag_of(type(message))
    return f"ctl-{tag}" if tag in _SHARED else tag


def accepted(message: Message, head: dict[str, Any]) -> bool:
    messages = CONTROL_REQUESTS if type(message) in CONTROL_REQUESTS.values() else CONTROL_REPLIES
    try:
        return bool(from_head_untrusted(messages, head))
    except RemoteProtocolError:
        return False


named = pytest.mark.parametrize("message", [*REQUESTS, *ANSWERS], ids=lambda message: rule_of(message))


@named
def test_both_take_it(message: Message) -> None:
    head = to_head(message)
    assert fits(rule_of(message), head)
    assert accepted(message, head)


@named
def test_neither_takes_a_field_too_many_or_of_another_type(message: Message) -> None:
    head = to_head(message)
    wrong = [{**head, "more": 1}]
    for name, value in head.items():
        flipped: Any = "x" if type(value) is bool else True
        wrong += [{**head, name: other} for other in (1.5, -1, flipped)]
    for bad in wrong:
        assert not fits(rule_of(message), bad), bad
        assert not accepted(message, bad), bad


@named
def test_a_field_that_the_page_wants_is_one_that_is_always_sent(message: Any) -> None:
    defaults = type(message)._field_defaults
    for name in type(message)._fields:
        without = {key: value for key, value in to_head(message).items() if key != name}
        if name not in defaults:
            assert not fits(rule_of(message), without), name
            assert not accepted(message, without), name
        elif message in REQUESTS or defaults[name] is None:
            assert fits(rule_of(message), without), name


@pytest.mark.parametrize(
    ("rule", "examples", "messages"), [("request", REQUESTS, CONTROL_REQUESTS), ("answer", ANSWERS, CONTROL_REPLIES)]
)
def test_every_message_has_a_rule_and_an_example(rule: str, examples: list[Any], messages: Registry) -> None:
    assert {tag_of(type(message)) for message in examples} == set(messages)
    listed = re.search(rf"^{rule} = (.*?)\n\n", rules(), re.DOTALL | re.MULTILINE)
    assert listed is not None
    assert set(re.split(r"\s*/\s*", listed[1].strip())) == {rule_of(message) for message in examples}
