"""Stands where ``syncctl`` does on the far side of a link, with a peer socket that greets and answers pings.

``wire_agent.py start --hold`` serves until stdin ends; ``wire_agent.py relay`` runs the real relay before the same.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from functools import partial

import trio

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from agentd.wire import Connection, ConnectionLost, greet
from ctl.relay import relay
from proto.hello import Hello
from proto.hold import Ready, encode_line
from proto.peer import Ping, Pong

AGENT = b"far agent id 16b"


async def serve(stream: trio.SocketStream) -> None:
    """One connection."""
    connection = Connection(stream)
    try:
        await greet(connection, Hello("agent", 1, 1, "0.1.0", AGENT))
        while True:
            message, _ = await connection.receive()
            if isinstance(message, Ping):
                await connection.send(Pong(message.n))
    except (ConnectionLost, trio.ClosedResourceError):
        pass
    finally:
        await connection.aclose()


async def main(*, relays: bool) -> None:
    """Serve until stdin ends, or the relay does."""
    directory = tempfile.mkdtemp(prefix="wire-")
    try:
        path = os.path.join(directory, "s")
        listener = trio.socket.socket(trio.socket.AF_UNIX)
        await listener.bind(path)
        listener.listen(64)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listener)])
            os.write(1, encode_line(Ready("0.1.0", AGENT, path.encode())))
            if relays:
                await trio.to_thread.run_sync(relay, 0, 1, path)
            else:
                async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
                    async for _ in stdin:
                        pass
            nursery.cancel_scope.cancel()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    trio.run(partial(main, relays=sys.argv[1:] == ["relay"]))
