"""Parity: are the vectors the stream logged those that the raw payments give? It must be so for every one of them.

`recompute` is the kernel from an empty state over payments in the log's order, `run` samples decisions, reads the raw
payments and says how many differ. States in Redis are never asked.
"""
