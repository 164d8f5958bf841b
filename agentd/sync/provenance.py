"""Whether a source is the directory whose deletions were carried out last: another one's are held for ``--force``.

Another disk may be mounted there, or a tree may have been unpacked anew.  What it has is synced all the same; what it
does not have may never have been in it.  No marker is put into the user's tree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd.sync import roots
from agentd.tree.baselines import digest

if TYPE_CHECKING:
    from agentd.sync.common import Journal
    from agentd.sync.roots import Root
    from proto.peer import Open


class Provenance:
    """Of the source ``root``, in a session that may delete at the agent ``peer``; elsewhere nothing is held."""

    def __init__(self, journal: Journal, root: Root, opening: Open, peer: bytes, *, initiating: bool) -> None:
        self._journal = journal
        self._root = root
        self._asked = bool(opening.delete and root.identity)
        self._lasting = self._asked and not (opening.dry_run or opening.scoped)
        far = opening.root if initiating else opening.origin
        self._key = digest([b"source", peer, far, root.path])
        self._known = journal.source(self._key) if self._asked else None
        self.held = self._known is not None and not opening.force and not roots.same(self._known, root.identity)
        """Whether it is another one."""

    def settle(self, stats: dict[str, int]) -> None:
        """The session is done, ``stats`` are its receiver's: this is the source now, if nothing was held."""
        if self._lasting and not stats.get("held") and self._known != self._root.identity:
            self._journal.remember_source(self._key, self._root.identity)
