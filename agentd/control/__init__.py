"""Serves syncctl and editors on the control socket."""
