"""``flip.py A B TARGET``: exchange a directory and a symlink as fast as it goes until stdin ends; print how often.

When both are directories, since somebody replaced the link, there is a new link to TARGET.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import select
import sys

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def main() -> None:
    one, two, target = (os.fsencode(word) for word in sys.argv[1:])
    renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    links = itertools.count(1)

    def exchange() -> None:
        if renameat2(_AT_FDCWD, one, _AT_FDCWD, two, _RENAME_EXCHANGE) and ctypes.get_errno() != errno.ENOENT:
            raise OSError(ctypes.get_errno(), "renameat2")

    count = 0
    while not select.select([0], [], [], 0)[0]:
        for _ in range(100):
            exchange()
        count += 100
        if not os.path.islink(one) and not os.path.islink(two):
            os.rename(two, b"%s%d" % (two, next(links)))
            os.symlink(target, two)
        if count % 10_000 == 0:
            # now and then each state lasts: a program has to be fast to be fooled by the short ones only
            for _ in range(2):
                select.select([], [], [], 0.002)
                exchange()
    print(count, next(links))


if __name__ == "__main__":
    main()
