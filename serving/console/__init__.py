"""The console: a page that the ranking service serves, and the read-only endpoints behind it."""
