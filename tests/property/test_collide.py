"""The generator of colliding content does what it says, and the matcher bears it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentd import _core
from tests.helpers import collide

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 1 << 20


def weak(block: bytes) -> int:
    result: int = _core._selftest("weak", block, {})
    return result


@pytest.mark.parametrize("block_len", [1 << 10, 3 << 10, 1 << 15])
def test_all_blocks_differ_and_have_one_weak_sum(block_len: int) -> None:
    basis = b"".join(collide.numbered(SIZE))
    blocks = [basis[at : at + block_len] for at in range(0, SIZE - block_len + 1, block_len)]
    assert len(basis) == SIZE
    assert len(set(blocks)) == len(blocks)
    assert {weak(block) for block in blocks} == {weak(collide.FILL * block_len)}


@pytest.mark.parametrize("new", [collide.filled(SIZE), collide.numbered(SIZE, first=1 << 20)])
def test_strong_hashes_are_bounded_where_every_window_collides(new: Iterator[bytes]) -> None:
    content = b"".join(new)
    basis = b"".join(collide.numbered(SIZE))
    [(tokens, literal, matched, wasted)] = _core._selftest(
        "delta", content, {"basis": basis, "block_len": 1 << 10, "piece": SIZE}
    )
    assert (literal, matched) == (SIZE, 0)
    assert len(tokens) == SIZE + 5
    assert wasted <= 2 * SIZE
