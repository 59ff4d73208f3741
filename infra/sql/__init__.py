"""PostgreSQL, the truth: its schema as Alembic versions, and the grants of the three roles."""
