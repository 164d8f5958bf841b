"""``python -m ctl``."""

from ctl.main import main

raise SystemExit(main())
