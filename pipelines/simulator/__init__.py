"""The simulator: people, merchants and thieves, seeded; the same options give the same payments.

`world.build(Options(...))` makes what holds for good, `days.stream(world, first_day, days)` its payments
day by day in order of arrival, and `folder.write` a labelled history with its truth table. Nothing in a
day depends on where the stream began, so a live stream continues a history with the same people.
"""
