"""Merchants: category amount law, online or in a city, Zipf popularity, some opening later."""

from dataclasses import dataclass

import numpy as np

from pipelines.simulator import places
from pipelines.simulator.draws import Purpose, generator

ZIPF_EXPONENT = 0.9  # popularity of the r-th merchant of a category is r ** -ZIPF_EXPONENT
OPENING_LATER = 0.08  # share of merchants that open in the first year
ONLINE_TRAFFIC = 0.35  # share of payments made online (measured on the simulator itself, 2026-11)
COORDINATE_SPREAD = 0.04  # degrees, about 4 km: merchants of a city around its centre


@dataclass(frozen=True)
class Category:
    """`median` in currency units, `sigma` of log amount within one merchant, `weight` of all payments."""

    name: str
    median: float
    sigma: float
    weight: float
    online: float
    nouns: tuple[str, ...]


CATEGORIES: tuple[Category, ...] = (
    Category("grocery", 31.0, 0.40, 0.22, 0.08, ("Market", "Grocery", "Foods", "Supermarket")),
    Category("restaurant", 25.0, 0.38, 0.17, 0.05, ("Kitchen", "Grill", "Bistro", "Diner", "Pizzeria")),
    Category("coffee", 9.0, 0.30, 0.10, 0.00, ("Coffee", "Espresso Bar", "Bakery")),
    Category("fuel", 38.0, 0.28, 0.08, 0.00, ("Fuel", "Gas Station", "Petrol")),
    Category("pharmacy", 18.0, 0.40, 0.06, 0.15, ("Pharmacy", "Drugstore")),
    Category("transport", 11.0, 0.40, 0.07, 0.40, ("Transit", "Taxi", "Parking", "Rides")),
    Category("subscription", 13.0, 0.10, 0.05, 1.00, ("Streaming", "Music", "News", "Cloud")),
    Category("marketplace", 30.0, 0.50, 0.09, 1.00, ("Online Store", "Marketplace", "Deals")),
    Category("fashion", 48.0, 0.42, 0.045, 0.50, ("Fashion", "Shoes", "Outfitters", "Apparel")),
    Category("entertainment", 22.0, 0.40, 0.045, 0.45, ("Cinema", "Tickets", "Arcade")),
    Category("digital_goods", 8.0, 0.50, 0.045, 1.00, ("Games", "Apps", "Digital")),
    Category("home", 45.0, 0.48, 0.03, 0.30, ("Hardware", "Furniture", "Garden Centre")),
    Category("electronics", 70.0, 0.50, 0.02, 0.50, ("Electronics", "Computers", "Phones")),
    Category("travel", 100.0, 0.50, 0.012, 0.80, ("Travel", "Hotels", "Airlines")),
    Category("jewelry", 110.0, 0.50, 0.003, 0.20, ("Jewelers", "Watches")),
)
NAMES: list[str] = [category.name for category in CATEGORIES]
VALUABLE = np.array([name in {"electronics", "travel", "jewelry", "fashion", "marketplace"} for name in NAMES])
LOG_MEDIAN = np.log([category.median for category in CATEGORIES])
SIGMA = np.array([category.sigma for category in CATEGORIES])

_FIRST_WORDS = (
    *(
        "Green Valley",
        "Harbor",
        "Sunrise",
        "Blue Ridge",
        "Golden",
        "Riverside",
        "Maple",
        "Northern",
        "Central",
        "Union",
    ),
    *("Old Town", "Silver", "Lakeside", "Prime", "Metro", "Corner", "Family", "Star", "Atlas", "Pioneer", "Liberty"),
    *("Cedar", "Summit", "Coastal", "Urban", "Grand", "Royal", "Bright", "Evergreen", "Copper", "Joe's", "Café Azul"),
)


@dataclass(frozen=True)
class Pool:
    """Merchants by place, drawn by popularity. Place `len(places.NAMES)` is the internet."""

    order: np.ndarray  # int32[m], merchants sorted by place
    cumulative: np.ndarray  # float64[m], place + cumulative share within the place
    ends: np.ndarray  # int64[places + 1], where each place's merchants begin in `order`

    def draw(self, place: np.ndarray, u: np.ndarray) -> np.ndarray:
        """int32[n]: for each place and each u in [0, 1) one merchant of it."""
        found = np.searchsorted(self.cumulative, place + u, side="right")
        return self.order[np.clip(found, self.ends[place], self.ends[place + 1] - 1)]


@dataclass(frozen=True)
class Merchants:
    """Columns over merchants."""

    name: list[str]
    category: np.ndarray  # int8[m], index into CATEGORIES
    online: np.ndarray  # bool[m]
    city: np.ndarray  # int16[m], index into places.NAMES; of no meaning online
    log_price: np.ndarray  # float64[m], log of the median amount here
    latitude: np.ndarray  # float64[m]
    longitude: np.ndarray
    traffic: np.ndarray  # float64[m], about its share of all payments
    opens: np.ndarray  # int32[m], day
    before: np.ndarray  # int32[m], the merchant people go to until this one opens
    all: Pool
    valuable: Pool  # categories a thief resells


def build(seed: int, users: int) -> Merchants:
    """About one merchant per six users, and in every city at least one of each category."""
    rng = generator(seed, Purpose.MERCHANTS)
    kinds, cities = len(CATEGORIES), len(places.NAMES)
    extra = max(0, min(users // 6, 60_000) - kinds * cities)
    share = np.array([category.weight for category in CATEGORIES]) ** 0.7
    category = np.concatenate([np.tile(np.arange(kinds), cities), rng.choice(kinds, size=extra, p=share / share.sum())])
    city = np.concatenate([np.repeat(np.arange(cities), kinds), rng.choice(cities, size=extra, p=places.POPULATION)])
    count = len(category)
    online_share = np.array([kind.online for kind in CATEGORIES])
    online = rng.random(count) < online_share[category]
    rank = _rank_within(category, rng.random(count))
    weight = np.array([kind.weight for kind in CATEGORIES])
    popularity = weight[category] * rank**-ZIPF_EXPONENT * np.where(online, 1.0, places.POPULATION[city] * cities)
    place = np.where(online, cities, city)
    opens = np.where(rng.random(count) < OPENING_LATER, rng.integers(0, 365, size=count), 0)
    opens[rank == 1] = 0
    pool = _pool(place, popularity, cities)
    valuable = VALUABLE[category]
    latitude = places.LATITUDE[city] + rng.normal(0, COORDINATE_SPREAD, count)
    longitude = places.LONGITUDE[city] + rng.normal(0, COORDINATE_SPREAD, count)
    return Merchants(
        name=_names(category, rng),
        category=category.astype(np.int8),
        online=online,
        city=city.astype(np.int16),
        log_price=LOG_MEDIAN[category] + rng.normal(0, 0.25, count),
        latitude=np.round(latitude, 4),
        longitude=np.round(longitude, 4),
        traffic=_traffic(place, popularity),
        opens=opens.astype(np.int32),
        before=_established(place, category, opens),
        all=pool,
        valuable=_pool(place, np.where(valuable, popularity, popularity * 1e-6), cities),
    )


def _rank_within(category: np.ndarray, shuffle: np.ndarray) -> np.ndarray:
    """float64[m]: 1, 2, 3, … within each category, in random order."""
    order = np.lexsort((shuffle, category))
    starts = np.searchsorted(category[order], category[order], side="left")
    rank = np.empty(len(category))
    rank[order] = np.arange(len(category)) - starts + 1
    return rank


def _pool(place: np.ndarray, popularity: np.ndarray, cities: int) -> Pool:
    order = np.argsort(place, kind="stable")
    ends = np.searchsorted(place[order], np.arange(cities + 2))
    total = np.cumsum(popularity[order])
    before = np.concatenate([[0.0], total])[ends]
    of = place[order]
    share = (total - before[of]) / (before[of + 1] - before[of])
    return Pool(order.astype(np.int32), of + np.minimum(share, 1.0), ends)


def _traffic(place: np.ndarray, popularity: np.ndarray) -> np.ndarray:
    """float64[m]: the place's share of payments times the merchant's share of the place."""
    share = np.append((1 - ONLINE_TRAFFIC) * places.POPULATION, ONLINE_TRAFFIC)
    return share[place] * popularity / np.bincount(place, weights=popularity)[place]


def _established(place: np.ndarray, category: np.ndarray, opens: np.ndarray) -> np.ndarray:
    """int32[m]: for each merchant one of the same place, of its category where possible, open since day 0."""
    first_of_place = np.full(place.max() + 1, -1)
    first_of_kind = np.full((place.max() + 1, category.max() + 1), -1)
    old = np.flatnonzero(opens == 0)[::-1]
    first_of_place[place[old]] = old
    first_of_kind[place[old], category[old]] = old
    same = first_of_kind[place, category]
    return np.where(same >= 0, same, first_of_place[place]).astype(np.int32)


def _names(category: np.ndarray, rng: np.random.Generator) -> list[str]:
    """Unique readable names; the first online store is called just that."""
    first = rng.integers(0, len(_FIRST_WORDS), len(category))
    noun = rng.random(len(category))
    seen: dict[str, int] = {"Online Store": 1}
    names: list[str] = []
    for kind, word, u in zip(category.tolist(), first.tolist(), noun.tolist(), strict=True):
        nouns = CATEGORIES[kind].nouns
        name = f"{_FIRST_WORDS[word]} {nouns[int(u * len(nouns))]}"
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    names[NAMES.index("marketplace")] = "Online Store"
    return names
