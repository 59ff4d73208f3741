"""People: how often, how much, when, where and with what each one pays."""

from dataclasses import dataclass

import numpy as np

from pipelines.simulator import places
from pipelines.simulator.draws import Purpose, generator, hashed, uniform
from pipelines.simulator.merchants import CATEGORIES, Merchants

METHODS: list[str] = ["credit_card", "debit_card", "digital_wallet", "bank_transfer", "prepaid_card"]
_METHOD_SHARE = np.array([0.42, 0.30, 0.18, 0.06, 0.04])
FAVOURITES = 15  # at most; each user has 3 to 15
NEVER = np.int32(1 << 30)  # a day that does not come
MOVING_PER_DAY = 0.0004  # one move in seven years
JOINING_LATER = 0.12  # share of users who come during the first year: growth
COMMUTERS = 0.06  # share of users who work in another city
DAY_TRIPS = 0.02  # share of days spent in another city, mostly a near one
_NEARNESS = np.exp(-places.distances_km() / 700.0) * places.POPULATION[None, :] * (1 - np.eye(len(places.NAMES)))
_TRIPS = np.cumsum(_NEARNESS / _NEARNESS.sum(axis=1, keepdims=True), axis=1)  # [home, city] cumulative


@dataclass(frozen=True)
class People:
    """Columns over users."""

    rate: np.ndarray  # float64[n], payments per day
    level: np.ndarray  # float64[n, categories], shift of log amount
    hour: np.ndarray  # float64[n], centre of the active hours, UTC
    spread: np.ndarray  # float64[n], hours
    home: np.ndarray  # int16[n], city
    second: np.ndarray  # int16[n], city a commuter spends one day in four in, -1 for others
    latitude: np.ndarray  # float64[n], of the home relative to its city's centre, degrees
    longitude: np.ndarray
    payday: np.ndarray  # int8[n], day of the month
    exploring: np.ndarray  # float64[n], share of payments at no favourite
    online: np.ndarray  # float64[n], taste for online among the unknown
    favourites: np.ndarray  # int32[n, FAVOURITES], merchants
    favourite_share: np.ndarray  # float64[n, FAVOURITES], cumulative
    method: np.ndarray  # int8[n, 2], usual and second payment method
    loyal: np.ndarray  # float64[n], share of the usual method
    joins: np.ndarray  # int32[n], day
    moves: np.ndarray  # int32[n], day, or NEVER
    new_home: np.ndarray  # int16[n], city after the move
    holiday_cycle: np.ndarray  # int32[n], days from one holiday to the next
    holiday_length: np.ndarray  # int32[n], days
    phone_life: np.ndarray  # int32[n], days
    card_life: np.ndarray  # int32[n], days until the second method changes

    def __len__(self) -> int:
        return len(self.rate)


def build(seed: int, users: int, merchants: Merchants) -> People:
    rng = generator(seed, Purpose.PEOPLE)
    cities = len(places.NAMES)
    home = rng.choice(cities, size=users, p=places.POPULATION)
    online = rng.beta(3.0, 4.0, size=users)
    favourites, share = _favourites(rng, home, online, merchants)
    usual = rng.choice(len(METHODS), size=users, p=_METHOD_SHARE)
    other = rng.choice(len(METHODS), size=users, p=_METHOD_SHARE)
    joins = np.where(rng.random(users) < JOINING_LATER, rng.integers(0, 365, size=users), 0)
    wait = rng.exponential(1 / MOVING_PER_DAY, size=users).astype(np.int64)
    commuter = rng.random(users) < COMMUTERS
    near = (_TRIPS[home] < rng.random(users)[:, None]).sum(axis=1).clip(0, cities - 1)
    level = rng.normal(0, 0.55, (users, 1)) + rng.normal(0, 0.20, (users, len(CATEGORIES)))
    return People(
        rate=np.clip(rng.lognormal(np.log(0.8), 0.7, users), 0.05, 8.0),
        level=level,
        hour=np.mod(_local_hour(rng, users) - places.LONGITUDE[home] / 15.0, 24.0),
        spread=np.clip(rng.lognormal(np.log(2.6), 0.3, users), 1.2, 5.0),
        home=home.astype(np.int16),
        second=np.where(commuter, near, -1).astype(np.int16),
        latitude=rng.normal(0, 0.05, users),
        longitude=rng.normal(0, 0.05, users),
        payday=rng.choice(np.array([1, 15, 25, 28], dtype=np.int8), size=users),
        exploring=rng.beta(2.0, 16.0, size=users),
        online=online,
        favourites=favourites,
        favourite_share=share,
        method=np.stack([usual, other], axis=1).astype(np.int8),
        loyal=rng.beta(12.0, 2.0, size=users),
        joins=joins.astype(np.int32),
        moves=np.minimum(joins + wait, NEVER).astype(np.int32),
        new_home=rng.choice(cities, size=users, p=places.POPULATION).astype(np.int16),
        holiday_cycle=rng.integers(800, 2400, size=users).astype(np.int32),
        holiday_length=rng.integers(3, 13, size=users).astype(np.int32),
        phone_life=rng.integers(400, 1000, size=users).astype(np.int32),
        card_life=rng.integers(500, 1500, size=users).astype(np.int32),
    )


def _local_hour(rng: np.random.Generator, users: int) -> np.ndarray:
    """Three in four pay in the afternoon, some in the morning, one in twelve at night."""
    kind = rng.random(users)
    day, morning, night = (rng.normal(centre, width, users) for centre, width in ((15.5, 2.2), (9.5, 1.2), (0.5, 1.5)))
    return np.where(kind < 0.74, day, np.where(kind < 0.92, morning, night))


def _favourites(
    rng: np.random.Generator, home: np.ndarray, online: np.ndarray, merchants: Merchants
) -> tuple[np.ndarray, np.ndarray]:
    users, internet = len(home), len(places.NAMES)
    place = np.where(rng.random((users, FAVOURITES)) < online[:, None] * 0.8, internet, home[:, None])
    chosen = merchants.all.draw(place, rng.random((users, FAVOURITES)))
    kept = rng.integers(3, FAVOURITES + 1, size=users)
    weight = rng.gamma(1.5, 1.0, (users, FAVOURITES)) / np.arange(1, FAVOURITES + 1) ** 0.7
    weight[np.arange(FAVOURITES)[None, :] >= kept[:, None]] = 0.0
    share = np.cumsum(weight, axis=1)
    return chosen, share / share[:, -1:]


def on_holiday(people: People, seed: int, user: np.ndarray, day: int) -> tuple[np.ndarray, np.ndarray]:
    """bool[n] and int16[n]: is the user away that day, and in which city."""
    cycle = people.holiday_cycle[user]
    moment = day + (hashed(seed, user, 11) % cycle.astype(np.uint64)).astype(np.int64)
    away = moment % cycle < people.holiday_length[user]
    drawn = uniform(seed, user, moment // cycle, 12)
    return away, np.searchsorted(np.cumsum(places.POPULATION**0.5 / (places.POPULATION**0.5).sum()), drawn).clip(
        0, len(places.NAMES) - 1
    ).astype(np.int16)


def city_of(people: People, seed: int, user: np.ndarray, day: int) -> tuple[np.ndarray, np.ndarray]:
    """int16[n] twice: where the user lives that day, and where he spends it: mostly the same."""
    moved = people.moves[user] <= day
    home = np.where(moved, people.new_home[user], people.home[user]).astype(np.int16)
    commutes = (people.second[user] >= 0) & (uniform(seed, user, day, 13) < 0.25)
    trip = uniform(seed, user, day, 15) < DAY_TRIPS
    ticket = uniform(seed, user, day, 16)
    there = (_TRIPS[home] < ticket[:, None]).sum(axis=1).clip(0, len(places.NAMES) - 1)
    spent = np.where(commutes, people.second[user], np.where(trip, there, home))
    return home, spent.astype(np.int16)


def phone_of(people: People, seed: int, user: np.ndarray, day: int) -> np.ndarray:
    """int64[n]: the number of the phone the user holds that day."""
    life = people.phone_life[user]
    return (day + (hashed(seed, user, 14) % life.astype(np.uint64)).astype(np.int64)) // life
