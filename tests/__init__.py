"""Tests, and the servers, fakes and oracles that they share."""
