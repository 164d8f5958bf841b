"""Warm links to other hosts' agents: one per host, shared by every session.

The face is in ``links.py`` (Links), ``link.py`` (Link) and ``host.py`` (LinkStatus).  Nothing is imported here: the
asyncssh child lives in this package too, and trio is not to be loaded there.
"""
