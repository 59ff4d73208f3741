"""Switches an operator throws while the stream runs: table `switches` says how each stands, the audit log how it came.

SQL that stream, command line and query service share; whoever runs it brings the connection.
"""

INTAKE, SCORING = "intake", "scoring"  # whether another batch begins; whether the model is asked
RUNNING, PAUSED = "running", "paused"
SCORED, RULES_ONLY = "scored", "rules-only"
STATES: dict[str, tuple[str, str]] = {INTAKE: (RUNNING, PAUSED), SCORING: (SCORED, RULES_ONLY)}  # the usual one first
MAX_REASON_CHARACTERS = 500

CURRENT = "SELECT name, state, actor, reason, changed_at FROM switches ORDER BY name"

# One statement, which may run twice: a switch that stands so already is left alone. The row's lock puts two people who
# throw it at once in turn.
THROW = """
    WITH held AS (SELECT name, state FROM switches WHERE name = %(name)s FOR UPDATE),
    thrown AS (
        UPDATE switches s SET state = %(state)s, actor = %(actor)s, reason = %(reason)s, changed_at = clock_timestamp()
        FROM held WHERE s.name = held.name AND held.state <> %(state)s
        RETURNING s.name, held.state AS before),
    noted AS (
        INSERT INTO audit (actor, action, subject, before, after)
        SELECT %(actor)s, 'switch', name, jsonb_build_object('state', before),
            jsonb_build_object('state', %(state)s::text, 'reason', %(reason)s::text)
        FROM thrown)
    SELECT name, before FROM thrown
"""
HISTORY = """
    SELECT at, actor, subject AS name, before ->> 'state' AS before, after ->> 'state' AS state,
        after ->> 'reason' AS reason
    FROM audit WHERE action = 'switch' ORDER BY id DESC LIMIT %(limit)s
"""
