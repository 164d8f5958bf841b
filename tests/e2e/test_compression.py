"""Compression over a real link: what is said about it holds, and a long link is packed for from the first byte."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from bench import wan
from tests.helpers.agents import eventually
from tests.helpers.hosts import short_directory, this_account, two_hosts
from tests.helpers.oracle import assert_same
from tests.helpers.pushes import link_rtt_us, pull, push, result
from tests.helpers.sshd import SSHD, Sshd
from tests.helpers.trees import TreeBuilder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.helpers.hosts import Agent, Hosts

FILES, SIZE = 300, 12_000


def content(seed: int, size: int) -> bytes:
    """Text of a kind: words of a small language, in any order."""
    rng = random.Random(seed)
    words = [bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(500)]
    return b" ".join(rng.choices(words, k=size // 6))


def build(hosts: Hosts, path: Path) -> int:
    """A tree of text, small files and a large one; how many bytes."""
    with TreeBuilder(path) as tree:
        contents = [content(n, SIZE) for n in range(FILES)]
        contents.append(content(FILES, 3 << 20))
        for n, text in enumerate(contents):
            tree.file(b"%d/%d" % (n % 7, n), text)
    hosts.account.owns(path)
    return sum(map(len, contents))


def wire(printed: str) -> int:
    """Bytes both ways, by what --json printed."""
    told = result(printed)
    sent, received = told["wire_sent"], told["wire_received"]
    assert isinstance(sent, int)
    assert isinstance(received, int)
    return sent + received


@pytest.mark.parametrize("run", [push, pull])
def test_what_is_said_about_compression_holds(hosts: Hosts, place: Path, run: object) -> None:
    assert callable(run)
    source = place / "source"
    size = build(hosts, source)
    assert wire(run(hosts, source, place / "packed", "-z", "--json")) < size / 2
    assert wire(run(hosts, source, place / "plain", "--no-compress", "--json")) > size
    for name in ("packed", "plain"):
        assert_same(source, place / name)


def test_a_delta_is_packed_too(hosts: Hosts, place: Path) -> None:
    source, destination = place / "source", place / "destination"
    text = content(1, 4 << 20)
    with TreeBuilder(source) as tree:
        tree.file(b"file", text)
        hosts.account.owns(source)
        push(hosts, source, destination)
        added = content(2, 1 << 20)
        tree.file(b"file", text[: 1 << 20] + added + text[1 << 20 :])
    hosts.account.owns(source)
    told = push(hosts, source, destination, "--compress=always", "--json")
    assert result(told)["stats"]["matched"] > len(text) // 2
    assert wire(told) < len(added) * 3 / 4
    assert_same(source, destination)


def test_what_does_not_shrink_goes_as_it_is(hosts: Hosts, place: Path) -> None:
    with TreeBuilder(place / "source") as tree:
        size = 0
        for n in range(40):
            size += 50_000
            tree.file(b"%d" % n, tree.noise(50_000))
    hosts.account.owns(place / "source")
    told = push(hosts, place / "source", place / "destination", "-z", "--json")
    assert size < wire(told) < size + 20_000
    assert_same(place / "source", place / "destination")


def test_a_pair_says_it_unless_the_command_does(hosts: Hosts, place: Path) -> None:
    source = place / "source"
    size = build(hosts, source)
    config = hosts.here.home / "config.toml"
    before = config.read_text()
    try:
        pair = f'[pair.packed]\nsource = "{source}"\ndestination = "box:{place}/first"\ncompress = "always"\n'
        hosts.here.configure(before + pair)
        assert wire(hosts.here.ok("sync", "packed", "--json")) < size / 2
        hosts.here.configure(before + pair.replace("first", "second"))
        assert wire(hosts.here.ok("sync", "packed", "--json", "--compress", "never")) > size
    finally:
        hosts.here.configure(before)
    assert_same(source, place / "first")
    assert_same(source, place / "second")


def test_a_word_that_no_pair_knows(agent: Agent) -> None:
    agent.configure('[pair.x]\nsource = "/a"\ndestination = "box:/b"\ncompress = "much"\n')
    ended = agent.run("start")
    assert ended.status == 2
    assert "config.toml:4" in ended.err
    assert "auto, never, always are allowed" in ended.err


@pytest.fixture(scope="module")
def distant() -> Iterator[Hosts]:
    """Two hosts and a long, slow link, whose length is known."""
    if SSHD is None:
        pytest.skip("sshd is not installed")
    account = this_account()
    with short_directory() as directory, two_hosts(account, directory) as hosts:
        assert isinstance(hosts.sshd, Sshd)
        with wan.between(hosts.sshd, wan.Wan(40, 200), directory):
            (directory / "warm").mkdir()
            push(hosts, directory / "warm", directory / "up")
            eventually("the link is measured", lambda: (link_rtt_us(hosts) or 0) > 10_000)
            yield hosts
            hosts.stop()


def test_a_long_link_is_packed_for_from_the_first_byte(distant: Hosts, tmp_path: Path) -> None:
    source = tmp_path / "source"
    size = build(distant, source)
    for name, run in (("pushed", push), ("pulled", pull)):
        assert wire(run(distant, source, tmp_path / name, "--json")) < size / 2
        assert_same(source, tmp_path / name)
        assert wire(run(distant, source, tmp_path / name, "--json")) < 25 * FILES, "lists are packed, too"
