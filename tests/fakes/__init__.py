"""Fakes for unit tests."""
