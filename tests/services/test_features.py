"""`vigil features` on real stores: a user's aggregates now, and the vector behind a past decision."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from typer.testing import CliRunner, Result

from feature_repo import state
from feature_repo.errors import BadConfiguration
from feature_repo.features import NAMES
from feature_repo.hashing import hash_text
from feature_repo.keys import state_key
from feature_repo.settings import Settings
from pipelines.cli import app
from pipelines.logged import logged
from streaming.ledger import Ledger
from streaming.partition import Road
from tests.unit.oracle import meanings
from tests.unit.road_fakes import PIN, FakePublisher, FakeStates, score_by_amount
from tests.unit.streams import snapshot_of
from tests.unit.test_road import NOW_US, payment, records
