"""The engines a session runs on: the crate's, as OPEN asks for them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from agentd import _core
from agentd.sync.trash import batch
from proto import limits

if TYPE_CHECKING:
    from agentd.sync.endpoints import ReceiverEngine, SenderEngine
    from agentd.tree.known import CrateTree
    from proto.peer import Open


DELETE_FEW = 100
"""More deletions than these, and than half of what is there, are refused where nobody said how many may be."""


class Tuning(NamedTuple):
    """How much of this machine a session may use."""

    threads: int = max(2, min(8, os.cpu_count() or 2))
    batch_max: int = 1 << 20
    """Bytes of small files in one DATA."""
    list_window: int = limits.LIST_WINDOW
    first_list_window: int = limits.FIRST_LIST_WINDOW
    data_window: int = limits.DATA_WINDOW
    first_data_window: int = limits.FIRST_DATA_WINDOW
    delta_min: int = 64 << 10
    """Smaller files are sent whole.  A signature costs no round trip (BASIS follows WANT), but both ends hash what one
    end would only send: 1 ms of processor for 1 MiB.  Over a loopback of 1 GB/s that is even from 1 to 4 MiB on, over 1
    Gbit/s from less than 64 KiB on: where only the length of a link is known, this loses least in either."""
    far_delta_min: int = 16 << 10
    """The same where the link is far: there the wire is what is short, and what is saved has to outweigh only a BASIS
    of the file's own."""
    partial_min: int = 1 << 20
    """A partial of fewer bytes is not worth keeping."""
    far_rtt_s: float = 0.01
    """A link this long is taken for one that compression pays on until it is measured: buffers on the way swallow the
    first MiBs, so that a sender sees late how slow it is.  Nearer ones are mostly fast, and a busy machine takes ms."""
    confine: bool = True
    """Engines hold their threads to their roots, where the kernel can."""
    stripes: int = 4
    """Data connections that a session over a long link begins with; see ``stripes``."""
    stripe_rtt_s: float = 0.01
    """From here on one SSH channel's 2 MiB window is the bottleneck."""
    stripe_min: int = 16 << 20
    """Bytes still to come that make further connections worth their making."""

    @property
    def first_windows(self) -> dict[str, int]:
        """What a session's machine takes for granted before OPENED says more."""
        return {"first_list_window": self.first_list_window, "first_data_window": self.first_data_window}

    @property
    def windows(self) -> tuple[int, int]:
        """What a receiver grants: bytes of list, and of data."""
        return max(self.list_window, self.first_list_window), max(self.data_window, self.first_data_window)


class Knowing(NamedTuple):
    """What a receiver knows from earlier sessions: see ``_core.Receiver``."""

    tree: CrateTree | None = None
    since: int | None = None
    partial: bool = False
    skip_first: bool = False


class Engines(Protocol):
    """Makes engines; every method may block."""

    def sender(
        self,
        root: bytes,
        open: Open,  # noqa: A002
        wake_fd: int,
        *,
        tree: CrateTree | None = None,
        looks: Any | None = None,
        since: int | None = None,
    ) -> SenderEngine:
        """Lists ``root``, or what ``looks`` are about, and sends of it; its windows are what is known when OPEN is.

        ``since``: the tree's tick at what the receiver has.
        """

    def receiver(
        self,
        root: bytes,
        open: Open,  # noqa: A002
        wake_fd: int,
        knowing: Knowing,
        *,
        arrow: str,
        temp_tag: str,
    ) -> ReceiverEngine:
        """Compares with ``root`` and applies to it."""

    def problems_untrusted(self, payload: Any) -> list[tuple[bytes, str, int]]:
        """The PROBLEMS in ``payload``."""


class CrateEngines:
    """The real ones."""

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning

    def sender(
        self,
        root: bytes,
        open: Open,  # noqa: A002
        wake_fd: int,
        *,
        tree: CrateTree | None = None,
        looks: Any | None = None,
        since: int | None = None,
    ) -> SenderEngine:
        """Raises OSError when ``root`` cannot be opened."""
        pushing = open.side == "receiver"
        known = {"tree": tree, "looks": looks, "since": since}
        more: Any = {name: value for name, value in known.items() if value is not None}
        return cast(
            "SenderEngine",
            _core.Sender(
                root,
                filters=list(open.filters),
                hashes=open.checksum,
                owners=open.owner or open.group,
                hard_links=open.hard_links,
                threads=self._tuning.threads,
                batch_max=self._tuning.batch_max,
                list_window=self._tuning.first_list_window if pushing else open.list_window,
                data_window=self._tuning.first_data_window if pushing else open.data_window,
                compress=open.compress,
                far=self._is_far(open),
                wake_fd=wake_fd,
                profile=open.profile,
                confine=self._tuning.confine,
                ahead=looks is not None and not (open.dry_run or open.checksum),
                **more,
            ),
        )

    def receiver(
        self,
        root: bytes,
        open: Open,  # noqa: A002
        wake_fd: int,
        knowing: Knowing,
        *,
        arrow: str,
        temp_tag: str,
    ) -> ReceiverEngine:
        """Raises OSError when ``root`` cannot be opened or its parent is missing."""
        list_window, data_window = self._tuning.windows
        return cast(
            "ReceiverEngine",
            _core.Receiver(
                root,
                filters=list(open.filters),
                delete=open.delete,
                hashes=open.checksum,
                owner=open.owner,
                group=open.group,
                hard_links=open.hard_links,
                dry_run=open.dry_run,
                itemize=open.itemize,
                force=open.force,
                max_delete=open.max_delete,
                arrow=arrow,
                threads=self._tuning.threads,
                delta_min=self._tuning.far_delta_min if self._is_far(open) else self._tuning.delta_min,
                partial_min=self._tuning.partial_min,
                list_window=list_window,
                data_window=data_window,
                temp_tag=temp_tag,
                wake_fd=wake_fd,
                profile=open.profile,
                on_conflict=open.on_conflict,
                confine=self._tuning.confine,
                fsync=open.fsync,
                delete_few=DELETE_FEW if open.max_delete is None else None,
                trash=batch(open.session) if open.trash else None,
                **knowing._asdict(),
            ),
        )

    def _is_far(self, open: Open) -> bool:  # noqa: A002
        return (open.rtt_us or 0) >= self._tuning.far_rtt_s * 1e6

    def problems_untrusted(self, payload: Any) -> list[tuple[bytes, str, int]]:
        """Raises PeerViolation."""
        return _core.unpack_problems_untrusted(payload)
