"""The resident agent: one per user and host."""
