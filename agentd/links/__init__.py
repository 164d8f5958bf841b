"""A link is the warm connection to a host; every transport keeps one contract."""
