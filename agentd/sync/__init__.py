"""Runs sessions: the pump between a connection, a session machine and a crate engine."""
