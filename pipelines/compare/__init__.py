"""Two versions on the same payments, at the same alert budget: `vigil compare A B`.

`paired` is the comparison itself, `live` and `run` say where its payments come from.
"""
