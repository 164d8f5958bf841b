"""Warm links to other hosts' agents: one per host, shared by every session."""

from __future__ import annotations

from agentd.links.host import LinkStatus
from agentd.links.link import Link
from agentd.links.links import Links

__all__ = ["Link", "LinkStatus", "Links"]
