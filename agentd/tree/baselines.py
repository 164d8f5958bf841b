"""Which agreed states are comparable: those with the same peer, about the same roots, by the same rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proto.peer import Open

DIGEST = 16
"""Bytes of a key, of a place and of a session's id."""


def digest(parts: Iterable[bytes]) -> bytes:
    """16 bytes of BLAKE3 over ``parts``, each behind its length."""
    state = blake3()
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest(length=DIGEST)


def origin(root: bytes) -> bytes:
    """What an initiator's OPEN calls its own root, an absolute path."""
    return digest([root])


def key(peer: bytes, side: str, opening: Open, *, initiating: bool) -> bytes:
    """Under what one end of a session keeps its baselines: ``side`` is its own, ``peer`` the other end's agent."""
    far = opening.root if initiating else opening.origin
    options = bytes((opening.delete, opening.owner, opening.group, opening.hard_links))
    return digest([peer, side.encode(), b"here" if initiating else b"there", far, options, *opening.filters])
