"""What people look at: a page that the ranking service serves, and the read-only answers behind it."""
