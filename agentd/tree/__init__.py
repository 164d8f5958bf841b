"""What is known about a root without looking again."""
