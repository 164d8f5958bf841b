"""Stands where ``syncctl`` does on the far side of a link, with an echo server in place of the agent.

``echo_agent.py start --hold`` serves a Unix socket until stdin ends; ``echo_agent.py relay`` runs the real relay before
the same server.  The first byte of a connection says what is done with it: ``e`` echo, ``s`` count what comes and say
how much at its end, ``g`` and 8 bytes n: send n bytes, ``t`` three replies 1 ms apart for each byte, ``h`` read
nothing.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import threading
import time

CHUNK = 256 << 10


def serve(sock: socket.socket) -> None:
    """One connection."""
    with sock:
        order = sock.recv(1)
        if order == b"e":
            while data := sock.recv(CHUNK):
                sock.sendall(data)
        elif order == b"s":
            count = 0
            while data := sock.recv(CHUNK):
                count += len(data)
            sock.sendall(count.to_bytes(8, "big"))
        elif order == b"g":
            left = int.from_bytes(sock.recv(8, socket.MSG_WAITALL), "big")
            block = bytes(range(256)) * (CHUNK // 256)
            while left:
                part = min(left, CHUNK)
                sock.sendall(memoryview(block)[:part])
                left -= part
        elif order == b"t":
            while sock.recv(1):
                for reply in (b"1", b"2", b"3"):
                    sock.sendall(reply)
                    time.sleep(0.001)
        elif order == b"h":
            threading.Event().wait()


def safely(sock: socket.socket) -> None:
    """A connection that breaks is the test's doing."""
    try:
        serve(sock)
    except OSError:
        pass


def listen(path: str) -> None:
    """Serve ``path`` from threads that end with the process."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(128)

    def accept() -> None:
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=safely, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def main() -> None:
    """As syncctl is called."""
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from proto.hold import Ready, encode_line

    directory = tempfile.mkdtemp(prefix="echo-")
    try:
        path = os.path.join(directory, "s")
        listen(path)
        ready = Ready("0.1.0", b"echo" * 4, path.encode())
        if sys.argv[1:] == ["relay"]:
            from ctl.relay import relay

            os.write(1, encode_line(ready))
            relay(0, 1, path)
        else:
            os.write(1, encode_line(ready))
            while os.read(0, 4096):
                pass
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main()
