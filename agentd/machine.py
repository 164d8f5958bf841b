"""Which running machine this is: two agents that share it can compare device and inode numbers."""

from __future__ import annotations

import blake3

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def machine_id() -> bytes:
    """16 bytes that change with every boot; empty where they cannot be had, which makes no two agents alike."""
    try:
        with open(_BOOT_ID, "rb") as file:
            boot = file.read(64).strip()
    except OSError:
        return b""
    # The boot id itself is for this machine alone (machine-id(5)); a peer gets a digest.
    return blake3.blake3(boot, derive_key_context="syncctl 2026 machine").digest(16)
