"""User states as a whole: shown, measured, kept as snapshots, rebuilt from the log, swept. `streaming/states.py` is how
they are read and written; nothing here is on a payment's way.
"""
