"""The experiments on public data sets: how each is split in time, and which ranker variants it compares."""
