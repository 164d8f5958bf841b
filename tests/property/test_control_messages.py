"""Control messages: CBOR and JSON lines say the same, and nothing that comes raises anything but the protocol error."""

from __future__ import annotations

import json
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto import control
from proto.control import CONTROL_REPLIES, CONTROL_REQUESTS, pack_problems, unpack_problems_untrusted
from proto.control_state import WATCH_STATES
from proto.control_trash import TRASH_ACTIONS
from proto.errors import RemoteProtocolError
from proto.hello import Hello
from proto.job import COMPRESS, ENVIRONMENT, FSYNC, ON_CONFLICT
from proto.jsonl import dump_line, load_line_untrusted, split_items, to_json
from proto.schema import from_head_untrusted, registry, to_head
from proto.strict import loads_untrusted

_PATHS = st.binary(min_size=1, max_size=20).filter(lambda path: b"\0" not in path)
_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
_IDS = st.integers(0, 2**32 - 1)
_U64 = st.integers(0, 2**64 - 1)
_COUNTERS = st.dictionaries(st.sampled_from(["files", "bytes", "listed"]), _U64)
_JOB: dict[str, Any] = {
    "env": st.dictionaries(st.sampled_from(ENVIRONMENT), _TEXT),
    **dict.fromkeys(("delete", "checksum", "dry_run", "itemize", "owner", "group", "force", "detach"), st.booleans()),
    "max_delete": st.none() | _U64,
    "trash": st.none() | _IDS,
    "fsync": st.none() | st.sampled_from(FSYNC),
    "timeout_ms": st.none() | st.integers(1, 2**32 - 1),
    "excludes": st.lists(_PATHS, max_size=3),
    "compress": st.none() | st.sampled_from(COMPRESS),
}
_REQUESTS = st.one_of(
    st.builds(control.Run, _IDS, _PATHS, _PATHS, **_JOB),
    st.builds(control.Sync, _IDS, st.lists(_PATHS, max_size=3), **_JOB),
    st.builds(control.Cancel, _IDS, _U64),
    st.builds(control.Status, _IDS),
    st.builds(
        control.AddPair,
        _IDS,
        _TEXT,
        _TEXT,
        _TEXT,
        st.booleans(),
        st.lists(_TEXT, max_size=3),
        st.booleans(),
        st.sampled_from(ON_CONFLICT),
        st.sampled_from(["", "30d"]),
    ),
    st.builds(
        control.Trash, _IDS, st.sampled_from(TRASH_ACTIONS), _PATHS, st.lists(_PATHS, max_size=3), _TEXT, _JOB["env"]
    ),
    st.builds(control.Flush, _IDS, st.lists(_TEXT, max_size=3), _JOB["env"], _JOB["timeout_ms"]),
    st.builds(control.Watch, _IDS, _TEXT, _JOB["env"], st.none() | _U64),
    st.builds(control.Events, _IDS, st.none() | _U64),
)
_REPLIES = st.one_of(
    st.builds(control.Accepted, _IDS, _U64, _PATHS, _PATHS, st.none() | _TEXT, st.integers(0, 9)),
    st.builds(control.Progress, _IDS, _U64, _TEXT, _COUNTERS),
    st.builds(
        control.Result, _IDS, _U64, _COUNTERS, _U64, _U64, _U64, _U64, _U64, st.integers(0, 9), profile=st.none()
    ),
    st.builds(control.Error, _IDS, _TEXT, _TEXT, st.none() | _TEXT, st.none() | _U64, st.integers(0, 9)),
    st.builds(
        control.PairInfo,
        _IDS,
        _TEXT,
        _TEXT,
        _TEXT,
        st.booleans(),
        st.lists(_TEXT, max_size=3),
        st.booleans(),
        st.sampled_from(ON_CONFLICT),
        st.none() | st.sampled_from(WATCH_STATES),
        st.none() | _TEXT,
        _U64,
        st.none() | _U64,
    ),
    st.builds(control.LinkInfo, _IDS, _TEXT, _TEXT, st.none() | _TEXT, st.none() | _U64, _TEXT, st.none() | _TEXT),
    st.builds(
        control.JobInfo,
        _IDS,
        _U64,
        _TEXT,
        _PATHS,
        _PATHS,
        _U64,
        _TEXT,
        _COUNTERS,
        _U64,
        st.booleans(),
        st.none() | _TEXT,
    ),
    st.builds(
        control.Event, _IDS, _U64, _U64, _TEXT, _TEXT, st.none() | _U64, st.none() | _TEXT, _TEXT, _TEXT, _COUNTERS
    ),
)
_PROBLEMS = st.lists(
    st.tuples(st.binary(max_size=9), st.sampled_from(["vanished", "write"]), st.integers(0, 2**31 - 1))
)


@given(_REQUESTS)
def test_a_request_is_the_same_in_both_forms(message: Any) -> None:
    by_cbor = from_head_untrusted(CONTROL_REQUESTS, loads_untrusted(cbor2.dumps(to_head(message))))
    by_json = load_line_untrusted(CONTROL_REQUESTS, dump_line(to_json(message)))
    assert by_cbor == by_json == message


@given(_REPLIES)
def test_an_answer_is_the_same_in_both_forms(message: Any) -> None:
    assert from_head_untrusted(CONTROL_REPLIES, loads_untrusted(cbor2.dumps(to_head(message)))) == message
    line = dump_line(to_json(message))
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert b"\x1b" not in line
    value = json.loads(line)
    for name, field in to_head(message).items():
        if type(field) is not bytes:
            assert value[name] == field


def test_a_hello_is_the_same_in_both_forms() -> None:
    hello = Hello("agent", 1, 2, "9", bytes(range(200, 216)), b"x" * 16, ["a"])
    assert load_line_untrusted(registry(Hello), dump_line(to_json(hello))) == hello


@given(_PROBLEMS)
def test_problems_round_trip(problems: list[tuple[bytes, str, int]]) -> None:
    payload = pack_problems(problems)
    assert unpack_problems_untrusted(payload) == problems
    value = to_json(control.Problems(1, 1), payload)["problems"]
    assert [one["errno"] for one in value] == [errno for _, _, errno in problems]


@given(_PROBLEMS.filter(bool), st.integers(1, 8))
def test_problems_cut_short_are_refused(problems: list[tuple[bytes, str, int]], cut: int) -> None:
    with pytest.raises(RemoteProtocolError):
        unpack_problems_untrusted(pack_problems(problems)[:-cut])


@given(st.lists(st.binary(min_size=1, max_size=9).filter(lambda line: b"\0" not in line)))
def test_items_split(lines: list[bytes]) -> None:
    assert split_items(b"".join(line + b"\0" for line in lines)) == lines


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_ODD = st.sampled_from(["run", "sync", "cancel", "status", "add-pair", "events", "nothing"]).flatmap(
    lambda tag: st.dictionaries(
        st.sampled_from(["id", "source", "source_b64", "destination", "targets", "env", "excludes", "job", "name"]),
        _JSON,
    ).map(lambda fields: {**fields, "t": tag})
)


@given(_ODD | _JSON)
def test_odd_json_is_refused_or_taken(value: Any) -> None:
    try:
        message = load_line_untrusted(CONTROL_REQUESTS, json.dumps(value).encode())
    except RemoteProtocolError:
        return
    message.validate()


@given(st.binary(max_size=60))
def test_odd_bytes_are_refused_or_taken(data: bytes) -> None:
    for take in (lambda: load_line_untrusted(CONTROL_REQUESTS, data), lambda: unpack_problems_untrusted(data)):
        try:
            take()
        except RemoteProtocolError:
            continue


@given(_ODD)
def test_odd_heads_are_refused_or_taken(head: dict[str, Any]) -> None:
    try:
        message = from_head_untrusted(CONTROL_REQUESTS, head)
    except RemoteProtocolError:
        return
    message.validate()
