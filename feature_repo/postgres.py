"""What every connection to PostgreSQL has in common."""

from typing import Any

# A server that vanished without a word is noticed within half a minute, whether we wait or send.
LIVENESS: dict[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
