"""Drift: how the days after training differ from those a version was calibrated on. It informs, it moves nothing.

`judge` is arithmetic on rows, `report` writes it down, `run` reads a version and a data set and calls both.
"""
