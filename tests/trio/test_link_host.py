"""One host's links over a fake transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from agentd.links.host import Host
from proto.errors import SyncError
from proto.hello import Hello

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentd.links.transport import Transport


async def test_a_defect_in_one_link_is_not_the_end_of_the_agent() -> None:
    async def transports(environ: Mapping[str, str], nursery: trio.Nursery, denied: bool) -> list[Transport]:
        async def fail() -> None:
            await trio.lowlevel.checkpoint()
            raise ValueError("a defect")

        nursery.start_soon(fail)
        await trio.sleep_forever()
        raise AssertionError

    host = Host("box", lambda: Hello("agent", 1, 1, "0"), lambda: 15.0, transports)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.run)
            for _ in range(2):
                with pytest.raises(SyncError, match="box: ") as caught:
                    await host.up()
                assert caught.value.code == "internal"
                assert host.status().state == "failed"
            nursery.cancel_scope.cancel()
