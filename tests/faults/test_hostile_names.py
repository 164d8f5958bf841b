"""Names and words of others in what people read: no control byte of theirs reaches a terminal, a log, or JSON."""

from __future__ import annotations

import json
import os
import re
from base64 import b64decode
from typing import TYPE_CHECKING, Any

import pytest

from agentd.wire import HELLO, Connection, ConnectionLost
from proto import limits
from tests.helpers.hostile import MINE, connected
from tests.helpers.hosts import short_directory

if TYPE_CHECKING:
    from tests.helpers.hosts import Agent

NAMES = {
    "colour": b"\x1b[31mred",
    "title": b"\x1b]0;owned\x07",
    "line": b"one\ntwo: done",
    "carriage return": b"one\rtwo",
    "DEL": b"a\x7fb",
    "C1 in UTF-8": b"a\xc2\x9b31mb",
    "C1 byte": b"a\x9b31mb",
    "not UTF-8": b"caf\xe9",
    "right to left": b"exe.\xe2\x80\xaetxt",
    "isolate": b"a\xe2\x81\xa6b",
    "line separator": b"a\xe2\x80\xa8b",
}
HARMFUL = re.compile("[\ud800-\udfff\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""All but the newline, which ends our own lines."""


def harmless(text: str) -> str:
    """The same."""
    found = HARMFUL.search(text)
    assert found is None, text[max(0, found.start() - 80) : found.end() + 20]
    return text


@pytest.mark.fault("G10", "B1")
def test_names_in_what_a_sync_prints(victim: Agent) -> None:
    """Items, deletions, problems; as text and as JSON, and the log."""
    with short_directory() as directory:
        source, destination = directory / "s", directory / "d"
        for top in (source, destination):
            top.mkdir()
        for name in NAMES.values():
            for there in (name, b"new " + name):
                with open(os.path.join(os.fsencode(source), there), "wb") as file:
                    file.write(b"content")
            os.makedirs(os.path.join(os.fsencode(destination), b"extra " + name))
            os.makedirs(os.path.join(os.fsencode(destination), name, b"in the way"))
        for words in (("--dry-run", "-i"), ("-i", "--json"), ("-i",)):
            ran = victim.run("push", source, destination, *words)
            assert ran.status == 1, ran
            harmless(ran.out)
            assert harmless(ran.err).count("in its way") == (0 if "--json" in words else len(NAMES)), ran
            if "--json" in words:
                told = [json.loads(line) for line in ran.out.splitlines()]
                assert {path for line in told for path in paths_of(line)} >= set(NAMES.values()), told
        done = victim.run("push", source, destination, "-i", "--delete", "--force", "--max-delete", "1000")
        harmless(done.out)
        harmless(done.err)
        for name in NAMES.values():
            ran = victim.run("push", directory / "s", b"-x" + name + b":/x")
            harmless(ran.out)
            harmless(ran.err)
            ran = victim.run("sync", name)
            harmless(ran.err)
        harmless(victim.run("status").out)
        harmless(victim.run("status", "--json").out)
        harmless((victim.home / "state/agentd.log").read_text(errors="surrogateescape"))


def paths_of(line: dict[str, Any]) -> list[bytes]:
    """Of a line's problems."""
    return [
        b64decode(problem["path_b64"]) if "path_b64" in problem else problem["path"].encode()
        for problem in line.get("problems", [])
    ]


@pytest.mark.fault("G10")
async def test_an_agent_s_own_words(victim: Agent) -> None:
    """Its version is shown when it does not fit."""
    async with connected(victim) as stream:
        connection = Connection(stream)
        newer = limits.PROTOCOL_MAX + 1
        words = "\x1b]0;owned\x07\u202e\x9b31m"
        await connection.send(MINE._replace(version=words, protocol_min=newer, protocol_max=newer))
        await connection.receive(HELLO)
        with pytest.raises(ConnectionLost):
            await connection.receive(HELLO)
    log = harmless(victim.log_tail())
    assert "\\x1b]0;owned\\x07\\u202e\\x9b31m" in log
