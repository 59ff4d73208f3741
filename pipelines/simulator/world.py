"""A world: everything that holds for good, made once from its options."""

from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime

import numpy as np

from feature_repo.errors import BadConfiguration
from pipelines.simulator import merchants, people
from pipelines.simulator.merchants import Merchants
from pipelines.simulator.people import People

DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000
DEFAULT_START = date(2025, 1, 1)  # fixed, so that the same seed gives the same bytes on any day
MAX_USERS = 10_000_000


@dataclass(frozen=True)
class Options:
    """What a world is made of; written to the manifest, from which the same world is made again."""

    users: int
    seed: int
    start: date = DEFAULT_START  # day 0, UTC
    prevalence: float = 0.006  # fraud per genuine payment
    difficulty: float = 0.5  # 0 obvious, 1 hardly to be told from genuine
    odd: float = 1.0  # scale of genuine oddities; at 1 about 1 % of payments
    never_reported: float = 0.03  # share of frauds nobody reports
    false_claims: float = 0.001  # share of genuine payments reported as fraud
    arriving_late: float = 0.002  # share of payments that arrive minutes to hours after they happened
    inflation: float = 0.03  # per year
    regime_day: int | None = None  # from this day on people buy more online, dearer and later
    new_mechanism_day: int | None = None  # from this day on there is fraud of a kind nobody has seen

    def __post_init__(self) -> None:
        """Raises BadConfiguration naming the first option out of range."""
        ranges = {
            "users": (1, MAX_USERS),
            "seed": (0, 2**63 - 1),
            "prevalence": (0, 0.2),
            "difficulty": (0, 1),
            "odd": (0, 10),
            "never_reported": (0, 1),
            "false_claims": (0, 0.1),
            "arriving_late": (0, 0.5),
            "inflation": (-0.5, 1),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise BadConfiguration(f"{name} must be between {low} and {high}, not {getattr(self, name)}")

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {"start": self.start.isoformat()}

    @classmethod
    def from_json(cls, document: dict[str, object]) -> "Options":
        known = {field.name: document[field.name] for field in fields(cls) if field.name in document}
        return cls(**known | {"start": date.fromisoformat(str(known["start"]))})  # type: ignore[arg-type]  # JSON


@dataclass(frozen=True)
class World:
    options: Options
    merchants: Merchants
    people: People

    @property
    def seed(self) -> int:
        return self.options.seed

    @property
    def first_midnight_us(self) -> int:
        """Microseconds since 1970 at the start of day 0, UTC."""
        start = self.options.start
        return int(datetime(start.year, start.month, start.day, tzinfo=UTC).timestamp()) * 1_000_000

    def midnight_us(self, day: int) -> int:
        return self.first_midnight_us + day * DAY_US

    def changed(self, day: int) -> bool:
        """Has the regime changed by that day?"""
        return self.options.regime_day is not None and day >= self.options.regime_day


def build(options: Options) -> World:
    """One world per options: the same options give the same world."""
    market = merchants.build(options.seed, options.users)
    return World(options, market, people.build(options.seed, options.users, market))


@dataclass(frozen=True)
class Rows:
    """Payments as codes, before they get text and an id. All arrays have n elements."""

    user: np.ndarray  # int32
    time: np.ndarray  # int64, microseconds since 1970
    merchant: np.ndarray  # int32
    cents: np.ndarray  # int64
    city: np.ndarray  # int16
    latitude: np.ndarray  # float64
    longitude: np.ndarray  # float64
    method: np.ndarray  # int8, index into people.METHODS
    device: np.ndarray  # int64, -1 for none
    mechanism: np.ndarray  # int8, 0 for genuine, else position in fraud.MECHANISMS plus 1
    odd: np.ndarray  # int8, position in genuine.ODDITIES, 0 for ordinary

    def __len__(self) -> int:
        return len(self.user)

    def take(self, chosen: np.ndarray) -> "Rows":
        return Rows(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    @staticmethod
    def joined(parts: "list[Rows]") -> "Rows":
        return Rows(
            **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Rows)}
        )
