"""Files whose rolling weak sums all collide: the worst that content can do to a delta.

Over the signed bytes x[0] … x[L-1] of a block the weak sum is, as in rsync, s1 | s2 << 16 with

    s1 = sum(x[i])  mod 2^16        s2 = sum((L - i) * x[i])  mod 2^16

Adding +1, -2, +1 to three neighbours x[i], x[i+1], x[i+2] adds 1 - 2 + 1 = 0 to s1 and
(L-i) - 2(L-i-1) + (L-i-2) = 0 to s2, wherever i lies and whatever L is.  So in a run of one byte any number of such
triples may be put anywhere without a change of the sums of the blocks that they lie in.  A *unit* of 1 KiB spells its
number, one triple for each bit that is 1: all units differ, and yet all blocks of whole units have the weak sum of a
block of ``FILL`` alone.  That holds for every block length that is a multiple of 1 KiB: ours, and rsync's for files of
4^n KiB.

Against ``numbered`` as a basis, ``filled`` is the hard case: each of its windows, at every offset, has the weak sum of
every block of the basis, and none is a block of it.  A matcher that tries them all needs time in the square of the
size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILL = b"a"
UNIT = 1 << 10
"""Bytes that spell one number."""
UNITS = 1 << 32
"""As many numbers as a unit can spell."""

_STRETCH = 1 << 10
"""Units that are made at a time."""


def _spelled(byte: int) -> bytes:
    return b"".join(b"b_b" if byte >> bit & 1 else FILL * 3 for bit in range(8))


_SPELLED = [_spelled(byte) for byte in range(256)]
_REST = FILL * (UNIT - 4 * len(_SPELLED[0]))


def unit(number: int) -> bytes:
    """The unit that spells ``number``, which is below ``UNITS``."""
    return b"".join(_SPELLED[byte] for byte in number.to_bytes(4, "little")) + _REST


def numbered(size: int, first: int = 1) -> Iterator[bytes]:
    """``size`` bytes in parts: units that count from ``first``.

    Two ranges that do not overlap have no block in common.
    """
    for begin in range(0, size, _STRETCH * UNIT):
        numbers = range(first + begin // UNIT, first + begin // UNIT + _STRETCH)
        yield b"".join(map(unit, numbers))[: size - begin]


def filled(size: int) -> Iterator[bytes]:
    """``size`` bytes in parts: ``FILL`` alone, which no unit from 1 on is."""
    part = FILL * (_STRETCH * UNIT)
    for begin in range(0, size, len(part)):
        yield part[: size - begin]


def write(path: Path, parts: Iterator[bytes]) -> None:
    """Makes a file of ``parts``."""
    with path.open("wb") as file:
        file.writelines(parts)
