"""Warm: what is synced again and again, and what that may cost."""

from __future__ import annotations

from bench import trees
from bench.case import AGAIN, CHANGED, LAN, PAIR, Case, sync, time
from bench.contenders import OURS, STATUS
from bench.figures import Bound
from bench.wan import Wan

_WAN = Wan(50, 1000)
_HERE_S = 0.035
"""What a command may take beyond the network's round trip."""

_WIRE = Bound("wire", None, 8192)
_COUNTED = Wan(0, 10_000)
"""Loopback, but for being counted."""


def _seconds(most: float) -> Bound:
    return Bound("seconds", None, most)


CASES: tuple[Case, ...] = (
    sync(
        "small-again",
        "small",
        AGAIN,
        "nothing changed",
        time(0.09),
        _seconds(0.032),
        contenders=(*LAN, STATUS),
        runs=9,
        quick=True,
    ),
    sync(
        "small-append",
        "small",
        CHANGED,
        "a line appended to 100 files",
        time(0.15),
        change=trees.append_lines,
        quick=True,
    ),
    sync("many-again", "many", AGAIN, "nothing changed", time(0.05), contenders=(*LAN, STATUS), quick=True),
    sync("many-new", "many", CHANGED, "one new file", time(0.05), contenders=PAIR, change=trees.new_file, quick=True),
    sync("many-edit", "many", CHANGED, "one changed", time(0.05), contenders=PAIR, change=trees.edit_file, quick=True),
    sync("many-restart", "many", AGAIN, "both agents restarted", time(0.60), contenders=PAIR, restart=True),
    sync(
        "many-extras",
        "many",
        AGAIN,
        "nothing changed, 20,000 files more at the destination",
        time(0.05),
        contenders=PAIR,
        extras=trees.extra_files,
        delete=False,
    ),
    sync("million-again", "million", AGAIN, "nothing changed", time(0.009), contenders=PAIR),
    sync(
        "wan-small-again",
        "small",
        AGAIN,
        f"nothing changed, {_WAN.what}",
        time(0.10),
        _seconds(_WAN.rtt_ms / 1000 + _HERE_S),
        contenders=PAIR,
        wan=_WAN,
    ),
    sync(
        "wan-many-again",
        "many",
        AGAIN,
        f"nothing changed, {_WAN.what}",
        time(0.015),
        _seconds(_WAN.rtt_ms / 1000 + _HERE_S),
        _WIRE,
        contenders=PAIR,
        wan=_WAN,
    ),
    sync(
        "wire-many-new",
        "many",
        CHANGED,
        "one new file, counted",
        _WIRE,
        contenders=(OURS,),
        wan=_COUNTED,
        change=trees.new_file,
    ),
    sync(
        "wire-many-edit",
        "many",
        CHANGED,
        "one changed, counted",
        _WIRE,
        contenders=(OURS,),
        wan=_COUNTED,
        change=trees.edit_file,
    ),
    sync(
        "wire-many-restart",
        "many",
        AGAIN,
        "both agents restarted, counted",
        Bound("wire", None, 200_000),
        contenders=(OURS,),
        wan=_COUNTED,
        restart=True,
    ),
    sync(
        "wire-million-again",
        "million",
        AGAIN,
        "nothing changed, counted",
        _WIRE,
        contenders=(OURS,),
        wan=_COUNTED,
        runs=3,
    ),
    sync(
        "line-edit",
        "line",
        CHANGED,
        "one line edited in the middle",
        time(0.25),
        contenders=PAIR,
        change=trees.edit_line,
        quick=True,
    ),
    sync(
        "wire-line-edit",
        "line",
        CHANGED,
        "one line edited in the middle, counted",
        Bound("wire", None, 65536),
        contenders=(OURS,),
        wan=_COUNTED,
        change=trees.edit_line,
    ),
    sync(
        "moved",
        "moved",
        CHANGED,
        "renamed",
        time(0.10),
        Bound("literal", None, 0),
        contenders=PAIR,
        change=trees.rename_directory,
        quick=True,
    ),
)
