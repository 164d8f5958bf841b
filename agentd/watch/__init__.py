"""Watching: pairs that are synced whenever their source changes."""
