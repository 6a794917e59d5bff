"""`python -m reaseq`."""

from cli import app

app()
