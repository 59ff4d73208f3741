"""Settings of every test run."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.live"]

# The first example compiles numba code: a deadline per example would measure the compiler.
settings.register_profile("vigil", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vigil")
