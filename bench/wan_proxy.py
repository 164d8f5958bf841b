"""A slow network on one machine: a TCP proxy that adds delay and caps the rate.

    wan_proxy.py --listen 2223 --to 2222 --rtt-ms 50 --mbit 200 [--stats FILE]

Every byte is delivered half the round-trip time after the proxy read it, and
each direction of each connection is capped at the given rate.  The proxy holds
at most two bandwidth-delay products (at least 256 KiB) per direction, as a
well-tuned window and a modest router queue would.  With --stats, FILE holds the
bytes carried so far as JSON: {"up": from the client, "down": to the client}.
Loopback only; needs nothing but Python 3.11.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import time
from collections import deque

CHUNK = 64 * 1024

Carried = dict[str, int]


async def pump(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    delay: float,
    bytes_per_s: float,
    window: int,
    carried: Carried,
    way: str,
) -> None:
    """Copy reader to writer, each chunk `delay` seconds late, at most `bytes_per_s`; count it in carried[way]."""
    queue: deque[tuple[float, bytes]] = deque()
    held = 0
    room = asyncio.Event()
    room.set()
    filled = asyncio.Event()

    async def fill() -> None:
        nonlocal held
        clear_at = time.monotonic()
        while True:
            await room.wait()
            data = await reader.read(CHUNK)
            carried[way] += len(data)
            now = time.monotonic()
            clear_at = max(clear_at, now) + len(data) / bytes_per_s
            queue.append((clear_at + delay, data))
            held += len(data)
            if held >= window:
                room.clear()
            filled.set()
            if not data:
                return

    filler = asyncio.create_task(fill())
    try:
        while True:
            while not queue:
                filled.clear()
                await filled.wait()
            due, data = queue.popleft()
            pause = due - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            if not data:
                writer.write_eof()
                return
            writer.write(data)
            await writer.drain()
            held -= len(data)
            if held < window:
                room.set()
    except OSError:
        writer.close()
    finally:
        filler.cancel()


async def write_stats(path: str, carried: Carried) -> None:
    """Keep `path` a current, whole JSON object."""
    written: Carried | None = None
    while True:
        if carried != written:
            written = dict(carried)
            with open(path + ".new", "w") as file:  # noqa: ASYNC230  a few bytes
                json.dump(written, file)
            os.replace(path + ".new", path)
        await asyncio.sleep(0.05)


async def serve(args: argparse.Namespace) -> None:
    """Until it is killed."""
    delay = args.rtt_ms / 2000
    rate = args.mbit * 1e6 / 8
    window = max(256 << 10, int(2 * rate * args.rtt_ms / 1000))
    carried = {"up": 0, "down": 0}

    async def on_connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far = socket.socket()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window // 4)
        far.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(far, ("127.0.0.1", args.to))
            up_reader, up_writer = await asyncio.open_connection(sock=far)
        except OSError:
            writer.close()
            return
        for each in (writer, up_writer):
            each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.gather(
            pump(reader, up_writer, delay, rate, window, carried, "up"),
            pump(up_reader, writer, delay, rate, window, carried, "down"),
            return_exceptions=True,
        )
        for each in (writer, up_writer):
            each.close()

    near = socket.socket()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window // 4)
    near.bind(("127.0.0.1", args.listen))
    server = await asyncio.start_server(on_connect, sock=near)
    print(f"127.0.0.1:{args.listen} -> 127.0.0.1:{args.to}  rtt {args.rtt_ms} ms  {args.mbit} Mbit/s", flush=True)
    stats = asyncio.create_task(write_stats(args.stats, carried)) if args.stats else None
    async with server:
        await server.serve_forever()
    if stats:
        stats.cancel()


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--listen", type=int, required=True)
    p.add_argument("--to", type=int, required=True)
    p.add_argument("--rtt-ms", type=float, default=50)
    p.add_argument("--mbit", type=float, default=200)
    p.add_argument("--stats", metavar="FILE")
    try:
        asyncio.run(serve(p.parse_args()))
    except KeyboardInterrupt:
        pass
