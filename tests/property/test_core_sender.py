"""The sender against bytes that no receiver sends, and trees that nobody would make by hand."""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from agentd._core import PeerViolation
from tests.helpers import sending
from tests.helpers.effort import examples
from tests.helpers.sending import Sending, buffer

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = st.binary(min_size=1, max_size=40).filter(
    lambda name: not {0, ord("/")} & set(name) and name not in {b".", b".."}
)
TREES: st.SearchStrategy[object] = st.recursive(
    st.binary(max_size=50), lambda inner: st.dictionaries(NAMES, inner, max_size=8), max_leaves=40
)


@contextmanager
def tree(content: object) -> Iterator[bytes]:
    """A directory that holds ``content``: a mapping is a directory, bytes are a file."""
    root = os.fsencode(tempfile.mkdtemp())
    try:
        make(root + b"/root", content if isinstance(content, dict) else {b"only": content})
        yield root + b"/root"
    finally:
        shutil.rmtree(root)


def make(path: bytes, content: object) -> None:
    if isinstance(content, dict):
        os.mkdir(path)
        for name, inner in content.items():
            make(path + b"/" + name, inner)
    else:
        assert isinstance(content, bytes)
        with open(path, "wb") as file:
            file.write(content)


def files(content: object, path: bytes = b"") -> dict[bytes, bytes]:
    if isinstance(content, dict):
        return {k: v for name, c in content.items() for k, v in files(c, path + b"/" + name if path else name).items()}
    assert isinstance(content, bytes)
    return {path: content}


@settings(max_examples=60, deadline=None)
@given(TREES, st.integers(1, 4), st.integers(1, 300), st.sampled_from(["never", "always"]))
def test_any_tree_arrives_through_any_window(content: object, threads: int, window: int, compress: str) -> None:
    expected = files(content if isinstance(content, dict) else {b"only": content})
    with (
        tree(content) as root,
        Sending(root, threads=threads, list_window=window, data_window=window, compress=compress) as running,
    ):
        sender = running.sender
        sender.want_all()
        sender.start()

        def done() -> bool:
            sender.grant(sum(map(len, running.chunks)) + window, sum(map(len, running.batches)) + window)
            return running.ended and running.resolved() == len(expected)

        running.until(done)
        assert {running.entries(r.chunk)[r.entry].path: r.data for r in running.records} == expected


@settings(max_examples=examples(80), deadline=None)
@given(st.data())
def test_no_bytes_of_a_peer_do_more_than_end_the_session(data: st.DataObject) -> None:
    with tree({b"a": b"x", b"d": {b"b": b"y"}}) as root, Sending(root) as running:
        running.list_all()
        if data.draw(st.booleans()):
            running.want(b"a", basis=(b"d/b",))
        words = st.integers(0, 3) | st.integers(0, 2**32 - 1)
        packed = st.lists(words, max_size=16).map(lambda values: struct.pack(f"<{len(values)}I", *values))
        payload = data.draw(st.binary(max_size=100) | packed)
        which = data.draw(st.sampled_from(["want", "basis", "ack"]))
        try:
            if which == "want":
                running.sender.want_untrusted(data.draw(words), buffer(payload))
            elif which == "basis":
                running.sender.basis_untrusted(buffer(payload))
            else:
                running.sender.ack_untrusted(buffer(payload))
        except PeerViolation:
            assert (running.sender.failure() or ("",))[0] == "protocol"
        else:
            assert running.sender.failure() is None
            running.take()
            assert all(record.kind in (sending.WHOLE, sending.PROBLEM) for record in running.records)
