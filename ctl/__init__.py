"""``syncctl``, the thin command line.  Its hot path imports the standard library, cbor2 and proto only."""
