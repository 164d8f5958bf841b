"""What an end of a session agrees on: nothing that its own look did not see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

from agentd.sync.memory import LOOK_MAX, Memory
from proto.errors import SyncError
from proto.peer import Open
from tests.trio.test_trees import running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agentd.sync.common import Workshop
    from agentd.sync.endpoints import Endpoint

KEY, BEFORE, SESSION = b"k" * 16, b"b" * 16, b"s" * 16


class Shop:
    async def blocking(self, function: Callable[..., Any], *args: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return function(*args)


class Ended:
    def __init__(self) -> None:
        self.receiver_stats: dict[str, int] = {}

    def close(self) -> None: ...


def failed(e: OSError) -> SyncError:
    return SyncError("destination-unwritable", str(e))


@pytest.mark.parametrize("meanwhile", ["before", "between", "during", "never"])
async def test_what_another_refresh_found_is_not_agreed_on(tmp_path: Path, meanwhile: str) -> None:
    opening = Open(SESSION, 0, "receiver", b"/r", 0, 0, baselines=[BEFORE])
    async with running(tmp_path) as forest, forest.trees.use(b"/r", []) as known:
        assert known is not None
        tree = forest.made[0]
        await known.refresh()
        tree.commit(KEY, BEFORE, 1)
        memory = Memory(known, KEY, opening, sends=False, failed=failed)
        await memory.recall(missing=False)
        if meanwhile == "before":
            await known.refresh()
        await memory.refresh(BEFORE, LOOK_MAX)
        assert await memory.changes(BEFORE, LOOK_MAX) is not None
        if meanwhile == "between":
            await known.refresh()
        async with memory.engaged(fills=True):
            if meanwhile == "during":
                with trio.move_on_after(0.01):  # it waits for the session
                    await known.refresh()
            await memory.conclude(cast("Workshop", Shop()), cast("Endpoint", Ended()), finished=True)
        agreed = [id_ for _, id_, _ in tree.committed]
        assert agreed == ([BEFORE] if meanwhile == "between" else [BEFORE, SESSION])
