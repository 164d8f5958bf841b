"""syncctl as a process of its own, whose agent listens where the first argument says."""

import sys

from ctl import client
from ctl.main import entry

path = sys.argv[1]
client.socket_paths = lambda: (path, path)
del sys.argv[1]
entry()
