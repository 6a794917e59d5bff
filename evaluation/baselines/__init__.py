"""Baselines that every claim of quality is compared with.

The defaults of those that rank baskets were chosen by HR@10 on the two weeks of Online Retail before the demo's replay.
"""
