"""`python -m reaseq`."""

from reaseq.cli import app

app()
