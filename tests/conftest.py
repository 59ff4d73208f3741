"""Settings of every test run."""

import os

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.live"]

# The first example compiles numba code: a deadline per example would measure the compiler. A change is judged by the
# same examples as the one before it; EXPLORE=1 draws others.
settings.register_profile(
    "vigil", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="EXPLORE" not in os.environ
)
settings.load_profile("vigil")
