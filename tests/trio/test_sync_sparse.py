"""Files with holes, from here to here with the crate's own engines: the same content, and about the same space."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.helpers.sparse import MIB, held, make, same
from tests.trio.test_sync_here import Here

if TYPE_CHECKING:
    from pathlib import Path

SLACK = 128 << 10
"""What a file system may take for itself, and what of a hole lies in a block with data."""

PARTIAL = ".large.0001020300000000.sync~"


@pytest.fixture
def here(tmp_path: Path) -> Here:
    (tmp_path / "src").mkdir()
    return Here(tmp_path)


def check(here: Here, *names: str) -> None:
    for name in names or os.listdir(here.top / "src"):
        source, copy = here.top / "src" / name, here.top / "dst" / name
        assert same(source, copy), name
        assert held(copy) <= held(source) + SLACK, name
    assert not [name for name in os.listdir(here.top / "dst") if name.endswith("~")]


async def test_holes_stay_holes_wherever_they_are(here: Here) -> None:
    src = here.top / "src"
    some = os.urandom(100_000)
    make(src / "small hole", MIB, {})
    make(src / "small", MIB - 7, {0: some, 600_000: some})
    make(src / "small, ends in a hole", 900_000, {300_000: some})
    make(src / "hole", 40 * MIB + 1, {})
    make(src / "front", 5 * MIB, {3 * MIB - 9: some})
    make(src / "end", 9 * MIB + 5000, {0: some})
    make(src / "between", 20 * MIB, {0: some, 7 * MIB + 70_000: some, 20 * MIB - 100_000: some})
    make(src / "every piece", 8 * MIB, {at * MIB + 200_000: some for at in range(8)})
    make(src / "two pieces", 2 * MIB, {})
    make(src / "zeros", 3 * MIB, {0: bytes(3 * MIB)})
    first = await here.sync()
    assert first.problem_count == 0
    assert first.stats["literal"] <= 17 * (len(some) + 8192) + 3 * MIB
    check(here)
    again = await here.sync()
    assert again.stats["files"] == 0


async def test_a_tebibyte_of_holes_costs_what_its_data_do(here: Here) -> None:
    source = here.top / "src" / "huge"
    some = os.urandom(70_000)
    make(source, 1 << 40, {5: some, (1 << 39) + 12345: some, (1 << 40) - 70_000: some})
    first = await here.sync()
    assert first.problem_count == 0
    assert first.wire_sent + first.wire_received < MIB
    check(here)
    with source.open("r+b") as file:  # its copy is a basis that is not worth a signature
        file.seek(1 << 38)
        file.write(some)
    second = await here.sync()
    assert (second.stats["files"], second.problem_count) == (1, 0)
    assert second.wire_sent + second.wire_received < MIB
    check(here)


async def test_a_basis_with_holes(here: Here) -> None:
    source = here.top / "src" / "large"
    data = {at: os.urandom(MIB) for at in range(0, 96 * MIB, 12 * MIB + 4096)}
    make(source, 100 * MIB, data)
    await here.sync()
    with source.open("r+b") as file:
        file.seek(12 * MIB + 50_000)
        file.write(b"changed")
        file.seek(60 * MIB)
        file.write(b"in a hole")
    changed = await here.sync()
    assert changed.problem_count == 0
    assert changed.stats["literal"] < 3 * MIB
    check(here)


@pytest.mark.parametrize("delta", [True, False])
async def test_a_dense_destination(here: Here, delta: bool) -> None:
    source = here.top / "src" / "large"
    some = os.urandom(3 * MIB)
    make(source, 12 * MIB, {MIB // 2: some, 9 * MIB: some})
    (here.top / "dst").mkdir()
    (here.top / "dst" / "large").write_bytes(source.read_bytes()[100:] if delta else b"")
    outcome = await here.sync()
    assert (outcome.stats["files"], outcome.problem_count) == (1, 0)
    check(here)


async def test_data_where_the_destination_has_holes(here: Here) -> None:
    (here.top / "dst").mkdir()
    make(here.top / "dst" / "large", 12 * MIB, {0: b"x"})
    (here.top / "src" / "large").write_bytes(b"x" + bytes(6 * MIB) + os.urandom(6 * MIB - 1))
    outcome = await here.sync(checksum=True)
    assert (outcome.stats["files"], outcome.problem_count) == (1, 0)
    check(here)
    assert (await here.sync(checksum=True)).stats["files"] == 0


@pytest.mark.parametrize("basis", [True, False])
async def test_a_partial_is_continued_with_its_holes_and_ours(here: Here, basis: bool) -> None:
    some = [os.urandom(MIB) for _ in range(4)]
    make(here.top / "src" / "large", 40 * MIB + 9, {2 * MIB: some[0], 9 * MIB + 300_000: some[1], 30 * MIB: some[2]})
    (here.top / "dst").mkdir()
    make(
        here.top / "dst" / PARTIAL, 36 * MIB, {2 * MIB: some[0], 9 * MIB: some[3], 20 * MIB: some[3], 30 * MIB: some[2]}
    )
    if basis:
        make(here.top / "dst" / "large", 30 * MIB, {MIB: some[1]})
    outcome = await here.sync()
    assert (outcome.stats["files"], outcome.problem_count) == (1, 0)
    check(here)
    assert outcome.stats["matched"] >= 2 * MIB
    assert outcome.stats["literal"] <= MIB + SLACK


async def test_one_file_with_holes(here: Here) -> None:
    make(here.top / "src" / "file", 7 * MIB, {5 * MIB: b"data"})
    (here.top / "dst").mkdir()
    await here.sync("src/file", "dst/file")
    check(here)


@pytest.mark.parametrize("seed", range(8))
async def test_anything_becomes_anything(here: Here, seed: int) -> None:
    chance = random.Random(seed)
    pool = chance.randbytes(MIB)

    def some() -> dict[int, bytes]:
        return {
            chance.randrange(0, 6 * MIB): pool[chance.randrange(MIB // 2) :][: chance.choice([1, 5000, MIB // 2])]
            for _ in range(chance.randrange(8))
        }

    (here.top / "dst").mkdir()
    names = [f"f{n}" for n in range(12)]
    for name in names:
        make(here.top / "src" / name, chance.randrange(1, 7 * MIB), some())
        if chance.random() < 0.7:
            make(here.top / "dst" / name, chance.randrange(1, 7 * MIB), some())
        if chance.random() < 0.5:
            make(here.top / "dst" / f".{name}.0001020300000000.sync~", chance.randrange(1, 7 * MIB), some())
    outcome = await here.sync(checksum=bool(seed & 1))
    assert outcome.problem_count == 0
    for name in names:
        assert same(here.top / "src" / name, here.top / "dst" / name), name
