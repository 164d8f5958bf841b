"""How the agent that belongs to this syncctl is run."""

from __future__ import annotations

import os
import sys


def agent_command() -> list[str]:
    """The agent's argv, its first word an absolute path.

    Whatever directory a command is given in, nothing is imported from it: ``python -m`` would run an ``agentd`` or a
    ``trio.py`` that lies there.
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    script = os.path.join(os.path.dirname(os.path.abspath(sys.executable)), "agentd")
    if root.startswith(sys.prefix + os.sep) and os.access(script, os.X_OK):
        return [script]
    run = f"import sys; sys.path.append({root!r}); from agentd.main import main; sys.exit(main())"
    return [os.path.abspath(sys.executable), "-P", "-c", run]
