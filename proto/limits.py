"""Every bound on what another process may ask of us, with its reason.

None of them can be raised by a peer: each side enforces its own.
"""

from __future__ import annotations

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1

FRAME_PREFIX = 8
"""Bytes before the head: the frame's length and the head's length, both u32 big-endian."""

HEAD_MAX = 64 << 10
"""A head names things; bulk is payload.  The strict decoder costs at most a few ms at this size."""

PAYLOAD_MAX = 2 << 20
"""A piece (1 MiB) with its record headers and incompressible literals fits with room to spare."""

CONTROL_PAYLOAD_MAX = 1 << 20
"""What an agent may send a CLI in one frame; a CLI sends no payload at all."""

HELLO_DEADLINE_S = 10.0
"""One deadline over a whole handshake, so that one byte a second does not hold a slot (CVE-2026-70464)."""

FRAME_DEADLINE_S = 30.0
"""A frame that was begun must end within this, and what its bytes take at FRAME_RATE_MIN."""

FRAME_RATE_MIN = 4 << 10
"""Bytes a second of the slowest link worth having, shared by a few connections."""

PATH_MAX_BYTES = 64 << 10
COMPONENT_MAX = 255
DEPTH_MAX = 4096
"""Names are longer than PATH_MAX where directories are held by handle; these bound the work per name."""

ROOT_MAX = 4095
"""Bytes of a root's path: it is opened by name once, so the system's own limit holds."""

FILTERS_MAX = 4096
TEXT_MAX = 4096
FEATURES_MAX = 64

LIST_WINDOW = 8 << 20
"""Bytes of file list a receiver holds unresolved: about 200,000 entries."""

FIRST_LIST_WINDOW = 1 << 20
"""What every receiver grants before OPENED says its window: a sender's list follows its OPEN without waiting."""

FIRST_DATA_WINDOW = 64 << 10
"""The same for data: a few small files that changed follow a list of changes without being asked for (AHEAD)."""

FAR_RTT_US = 10_000
"""From here on a receiver says how much has arrived: nearer links hold little."""

DATA_WINDOW = 32 << 20
"""Bytes of file data under way to a receiver, as on the wire: more than twice the product of 1 Gbit/s and 100 ms."""

BASELINES_MAX = 2
"""Agreed states that an OPEN may name: the last one, and the one before, should its end not have arrived there."""

LOOKS_MAX = 16
"""LOOKs of one session, each at most a payload."""

STRIPES_MAX = 8
"""Data connections of one session."""

EPOCHS_KEPT = 1024
"""Ended sessions whose epoch a responder remembers, so that a late OPEN of an older one is refused."""

PROBLEMS_KEPT = 1000
"""Problems of one job that are kept and shown in detail; all are counted."""

CONNECTIONS_MAX = 64
"""Connections one peer may hold open at an agent: sessions, their stripes, and spares."""

CONNECTIONS_TOTAL = 256
"""The same of all peers together, those that have not greeted included: 128 KiB each, and a payload while one comes."""

U8, U16, U32, U64 = (1 << 8) - 1, (1 << 16) - 1, (1 << 32) - 1, (1 << 64) - 1
