"""``python -m ctl``."""

from ctl.main import entry

entry()
