"""A bad network on one machine: two network namespaces of the test's own, and between them whatever weather it wants.

Each namespace has a TUN device; a thread carries packets from one to the other, late, slowly, twice, in another order
or not at all.  Nothing of it is seen outside, and nothing is left of it when its descriptors are closed.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

NEAR, FAR = "10.99.0.1", "10.99.0.2"
MTU = 1400

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000


class CannotError(Exception):
    """No such network can be made here; the reason."""


class Weather(NamedTuple):
    """What one direction does to packets."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    """Up to so much is added to each, which lets packets overtake one another."""
    loss: float = 0.0
    """Share of packets that never arrive; 1 is a black hole."""
    duplicate: float = 0.0
    """Share that arrives twice."""
    rate: float = 0.0
    """Bytes a second; no limit when 0."""
    queue_s: float = 0.5
    """What would wait longer for its turn is dropped."""


CLEAR = Weather()
BLACK_HOLE = Weather(loss=1.0)


class _Side:
    """One namespace: its TUN device, and the weather of what leaves it."""

    def __init__(self, address: str, peer: str) -> None:
        self.weather = CLEAR
        self.free_at = 0.0
        """When the last byte of what waits will have gone."""
        self.sent = 0
        self.lost = 0
        self._address, self._peer = address, peer
        self._error: Exception | None = None
        # The namespace is a thread's; descriptors keep it when the thread has ended.
        thread = threading.Thread(target=self._make)
        thread.start()
        thread.join()
        if self._error is not None:
            raise CannotError(str(self._error))

    @property
    def enter(self) -> list[str | bytes]:
        """Words before a command that let it run in the namespace."""
        return ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self._namespace}"]

    def link(self, state: str) -> None:
        """Set the device ``up`` or ``down``."""
        subprocess.run([*self.enter, "ip", "link", "set", "tun0", state], check=True)

    def close(self) -> None:
        """Give both up; the kernel removes them with the last process inside."""
        os.close(self.tun)
        os.close(self._namespace)

    def _make(self) -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
                code = ctypes.get_errno()
                raise OSError(code, f"no network namespace: {os.strerror(code)}")
            self.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(self.tun, _TUNSETIFF, struct.pack("16sH22x", b"tun0", _IFF_TUN | _IFF_NO_PI))
            self._namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            for words in (
                "link set lo up",
                f"addr add {self._address} peer {self._peer} dev tun0",
                f"link set tun0 mtu {MTU} up",
            ):
                subprocess.run(["ip", *words.split()], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as e:
            self._error = e


class Network:
    """Packets are carried within ``with``.  ``near.weather`` is of what leaves the near side, and may change."""

    def __init__(self, seed: int = 0) -> None:
        if os.geteuid() != 0:
            raise CannotError("network namespaces take root")
        if shutil.which("nsenter") is None:
            raise CannotError("nsenter is not installed")
        self.near, self.far = _Side(NEAR, FAR), _Side(FAR, NEAR)
        self._chance = random.Random(seed)
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._wake, self._stop = os.pipe()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._stop)
        self._thread.join()
        os.close(self._wake)
        self.near.close()
        self.far.close()

    def set(self, weather: Weather) -> None:
        """The same in both directions."""
        self.near.weather = self.far.weather = weather

    def _carry(self) -> None:
        others = {self.near.tun: (self.near, self.far), self.far.tun: (self.far, self.near)}
        under_way: list[tuple[float, int, int, bytes]] = []  # due, tie, device, packet
        ties = itertools.count()
        poll = select.poll()
        for fd in (*others, self._wake):
            poll.register(fd, select.POLLIN)
        while True:
            wait_s = under_way[0][0] - time.monotonic() if under_way else None
            ready = [fd for fd, _ in poll.poll(None if wait_s is None else max(0.0, wait_s * 1000))]
            if self._wake in ready:
                return
            for fd in ready:
                here, there = others[fd]
                for packet in _packets(fd):
                    for due in self._dues(here, len(packet)):
                        heapq.heappush(under_way, (due, next(ties), there.tun, packet))
            while under_way and under_way[0][0] <= time.monotonic():
                _, _, fd, packet = heapq.heappop(under_way)
                try:
                    os.write(fd, packet)
                except OSError:
                    pass  # the device is down, or its queue is full: a network may lose packets

    def _dues(self, side: _Side, size: int) -> Sequence[float]:
        """When a packet that leaves ``side`` now arrives: never, once or twice."""
        weather, chance, now = side.weather, self._chance, time.monotonic()
        side.sent += 1
        gone_at = now
        if weather.rate:
            gone_at = max(side.free_at, now) + size / weather.rate
        if chance.random() < weather.loss or gone_at - size / (weather.rate or 1e12) > now + weather.queue_s:
            side.lost += 1
            return ()
        side.free_at = gone_at
        copies = 2 if chance.random() < weather.duplicate else 1
        return [gone_at + weather.delay_s + weather.jitter_s * chance.random() for _ in range(copies)]


def _packets(tun: int) -> list[bytes]:
    """Those that wait, a share of them; only IPv4 is spoken here."""
    found = []
    for _ in range(64):
        try:
            packet = os.read(tun, 1 << 16)
        except OSError:
            break
        if packet[0] >> 4 == 4:
            found.append(packet)
    return found
