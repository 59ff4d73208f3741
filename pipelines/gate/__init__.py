"""The promotion gate: may this version serve? (MODELS.md §4)

`evidence` reads what is judged, `judge` judges it without touching a server, `report` writes down why.
"""
