"""Stand-ins for unit tests."""
