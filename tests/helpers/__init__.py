"""Servers, fakes and oracles."""
