"""Schema, topics, search template and feature views, in one go: what a set of new servers needs.

`python -m infra.provision` does it for the servers the settings name and prints one line each. All of it
may run again at any time.
"""

import sys
from collections.abc import Iterator

from feature_repo import settings as configuration
from feature_repo.errors import VigilError
from feature_repo.settings import Settings


def apply(settings: Settings) -> Iterator[str]:
    """Does one part at a time and says what was done. Raises the first part's error that fails."""
    from feature_repo import definitions
    from infra.elasticsearch import provision as search
    from infra.kafka import provision as topics
    from infra.sql import migrate

    yield f"schema at revision {migrate.upgrade(settings)}"
    yield from topics.apply(settings) or ["topics as they should be"]
    search.apply(settings)
    yield "search template in place"
    definitions.apply(settings)
    yield "feature views in the registry"


def main() -> int:
    try:
        for line in apply(configuration.load()):
            sys.stdout.write(line + "\n")
    except VigilError as error:
        sys.stderr.write(f"{error.code} {error.message}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
