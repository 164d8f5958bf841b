"""Two trees that only look at what changed, at both ends, stay equal under random changes at both ends."""

from __future__ import annotations

import os
import random
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.helpers.oracle import differences
from tests.helpers.warm_pair import Pair

if TYPE_CHECKING:
    from pathlib import Path


def change(root: Path, chance: random.Random) -> None:
    """One change somewhere below ``root``."""
    directories = [root, *(path for path in root.rglob("*") if path.is_dir() and not path.is_symlink())]
    here = chance.choice(directories) / chance.choice("abcd")
    there = chance.choice(directories) / chance.choice("abcd")
    with suppress(OSError):
        match chance.randrange(9):
            case 0 | 1 | 2:
                here.write_bytes(chance.randbytes(chance.choice([0, 9, 5000])))
            case 3:
                here.mkdir()
            case 4:
                os.replace(here, there)
            case 5:
                here.symlink_to(chance.choice(["x", "longer/target"]))
            case 6:
                os.link(here, there)
            case 7:
                here.chmod(chance.choice([0o755, 0o700]))
            case _:
                shutil.rmtree(here) if here.is_dir() and not here.is_symlink() else here.unlink()


@pytest.mark.parametrize("seed", range(12))
def test_both_ends_look_only_at_what_changed(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    source, destination = tmp_path / "src", tmp_path / "dst"
    for root in (source, destination):
        root.mkdir()
        for _ in range(30):
            change(root, chance)
    with Pair(source, destination) as pair:
        for turn in range(12):
            pair.sync(forgotten=chance.random() < 0.1)
            assert (differences(source, destination), pair.problems) == ([], []), turn
            # What a session has done is no change to the next one, but to a file that has lost another name by it.
            counters = pair.sync()
            assert (counters["wanted_files"], counters["deleted"]) == (0, 0), turn
            assert pair.sync()["listed"] == 0, turn
            for root, most in ((source, 8), (destination, 4)):
                for _ in range(chance.randrange(most)):
                    change(root, chance)
