"""One day of genuine payments, all users at once."""

import numpy as np

from pipelines.simulator import people as people_of
from pipelines.simulator import places
from pipelines.simulator.draws import Purpose, generator, hashed, uniform
from pipelines.simulator.merchants import SIGMA
from pipelines.simulator.people import FAVOURITES
from pipelines.simulator.world import DAY_US, HOUR_US, Rows, World

ODDITIES = ("", "holiday", "moved", "large", "hour", "elsewhere", "method")
HOLIDAY, MOVED, LARGE, HOUR, ELSEWHERE, METHOD = range(1, len(ODDITIES))

_WEEK = np.array([0.93, 0.93, 0.95, 1.0, 1.17, 1.22, 0.80])  # Monday first
SPREE = 0.15  # share of payments made soon after the one before
_GUEST = 0.15  # share of online payments whose device is unknown
_INTERNET = len(places.NAMES)


def day_of_payments(world: World, day: int) -> Rows:
    """Genuine payments whose event time lies in that day, sorted by user, not by time."""
    rng = generator(world.seed, Purpose.GENUINE, day)
    user = _who_pays(world, day, rng)
    odd = np.zeros(len(user), dtype=np.int8)
    time = _when(world, day, user, odd, rng)
    city, away, paying = _whereabouts(world, day, user, time)
    user, odd, time, city, away = user[paying], odd[paying], time[paying], city[paying], away[paying]
    moves = world.people.moves[user]
    odd[(moves <= day) & (day < moves + 7)] = MOVED
    odd[away] = HOLIDAY
    merchant = _where(world, day, user, city, away, rng)
    cents = _how_much(world, day, user, merchant, odd, rng)
    online = world.merchants.online[merchant]
    place, latitude, longitude = _position(world, user, merchant, city, odd, rng)
    method = _with_what(world, day, user, online, odd, rng)
    device = _device(world, day, user, online, method, rng)
    return Rows(
        user=user,
        time=world.midnight_us(day) + time,
        merchant=merchant,
        cents=cents,
        city=place,
        latitude=latitude,
        longitude=longitude,
        method=method,
        device=device,
        mechanism=np.zeros(len(user), dtype=np.int8),
        odd=odd,
    )


def _who_pays(world: World, day: int, rng: np.random.Generator) -> np.ndarray:
    """int32[payments]: Poisson counts by own rate, week day and days since payday."""
    who, start = world.people, world.options.start
    date = np.datetime64(start) + day
    weekday = (start.weekday() + day) % 7
    since_payday = np.mod((date - date.astype("datetime64[M]")).astype(int) + 1 - who.payday, 30)
    rate = who.rate * _WEEK[weekday] * (1 + 0.35 * np.exp(-since_payday / 3.0)) * (who.joins <= day)
    return np.repeat(np.arange(len(who), dtype=np.int32), rng.poisson(rate))


def _when(world: World, day: int, user: np.ndarray, odd: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int64[n], microseconds into the day: own hours, a few at any hour, some in sprees."""
    who, count = world.people, len(user)
    later = 1.5 if world.changed(day) else 0.0
    hour = who.hour[user] + later + who.spread[user] * rng.normal(size=count)
    strange = (rng.random(count) < 0.002 * world.options.odd) & (odd == 0)
    hour = np.where(strange, who.hour[user] + 12 + 2 * rng.normal(size=count), hour)
    odd[strange] = HOUR
    time = (np.mod(hour, 24.0) * HOUR_US).astype(np.int64)
    follows = np.zeros(count, dtype=bool)
    follows[1:] = (user[1:] == user[:-1]) & (rng.random(count) < SPREE)[1:] & (odd[1:] != HOUR)
    gap = (rng.exponential(0.3, count) * HOUR_US).astype(np.int64)
    before = np.concatenate([time[:1], time[:-1]])
    return np.where(follows, before + gap, time) % DAY_US


def _whereabouts(
    world: World, day: int, user: np.ndarray, time: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The user's city at each payment, whether on holiday, and whether paying at all: people on the road are not.

    A day trip leaves home after 7 and is back by 22, local time; the first day of a holiday is spent travelling.
    """
    who, odd_scale = world.people, world.options.odd
    holiday, resort = people_of.on_holiday(who, world.seed, user, day)
    yesterday, _ = people_of.on_holiday(who, world.seed, user, day - 1)
    back, _ = people_of.on_holiday(who, world.seed, user, day + 1)
    holiday &= uniform(world.seed, user, 22) < odd_scale
    home, there = people_of.city_of(who, world.seed, user, day)
    local = (time / HOUR_US + places.LONGITUDE[home] / 15.0) % 24
    tripping = (home != there) & ~holiday
    on_the_road = tripping & (((local >= 7) & (local < 10)) | ((local >= 19) & (local < 22)))
    on_the_road |= holiday & ~(yesterday & back)
    out = tripping & (local >= 10) & (local < 19)
    city = np.where(holiday, resort, np.where(out, there, home)).astype(np.int16)
    return city, holiday, ~on_the_road


def _where(
    world: World, day: int, user: np.ndarray, city: np.ndarray, away: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """int32[n]: a favourite, or one explored by popularity; abroad mostly what is there."""
    who, market, count = world.people, world.merchants, len(user)
    slot = (who.favourite_share[user] < rng.random(count)[:, None]).sum(axis=1).clip(0, FAVOURITES - 1)
    merchant = who.favourites[user, slot]
    here = market.online[merchant] | (market.city[merchant] == city)
    # Away from home the favourites there are fixed too: the same user and slot give the same merchant.
    local = market.all.draw(city.astype(np.int64), uniform(world.seed, user, slot, city, 21))
    merchant = np.where(here, merchant, local)
    online_taste = who.online[user] * (1.3 if world.changed(day) else 1.0)
    place = np.where(rng.random(count) < online_taste * 0.8, _INTERNET, city)
    explored = market.all.draw(place, rng.random(count))
    exploring = rng.random(count) < np.where(away, 0.6, who.exploring[user])
    merchant = np.where(exploring, explored, merchant)
    return np.where(market.opens[merchant] > day, market.before[merchant], merchant).astype(np.int32)


def _how_much(
    world: World, day: int, user: np.ndarray, merchant: np.ndarray, odd: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """int64[n], cents: the merchant's price, the user's level, and now and then something large."""
    market, count = world.merchants, len(user)
    category = market.category[merchant]
    log = usual_log_amount(world, user, merchant) + SIGMA[category] * rng.normal(size=count)
    log += np.log1p(world.options.inflation) * day / 365 + (0.25 if world.changed(day) else 0.0)
    large = (rng.random(count) < 0.0025 * world.options.odd) & (odd == 0)
    log += np.where(large, rng.normal(1.7, 0.5, count), 0.0)
    odd[large] = LARGE
    log += np.where(odd == HOLIDAY, 0.2, 0.0)
    cents = np.maximum(np.rint(np.exp(log) * 100), 25).astype(np.int64)
    charming = rng.random(count) < 0.3  # prices that end in 99
    return np.where(charming & (cents > 200), cents // 100 * 100 - 1, cents)


def usual_log_amount(world: World, user: np.ndarray, merchant: np.ndarray) -> np.ndarray:
    """float64[n]: log of what this user ordinarily pays there, currency units."""
    level: np.ndarray = world.people.level[user, world.merchants.category[merchant]]
    return world.merchants.log_price[merchant] + level


def _position(
    world: World, user: np.ndarray, merchant: np.ndarray, city: np.ndarray, odd: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """City, latitude and longitude: the till's, or the buyer's when online; a few seem elsewhere (VPN)."""
    market, count = world.merchants, len(user)
    online = market.online[merchant]
    vpn = online & (rng.random(count) < 0.002 * world.options.odd) & (odd == 0)
    odd[vpn] = ELSEWHERE
    place = np.where(vpn, rng.integers(0, _INTERNET, count), city)
    place = np.where(online, place, market.city[merchant]).astype(np.int16)
    latitude, longitude = at_home(world, user, place)
    return (
        place,
        np.where(online, latitude, market.latitude[merchant]),
        np.where(online, longitude, market.longitude[merchant]),
    )


def at_home(world: World, user: np.ndarray, city: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a user is found in a city, to about a hundred metres."""
    latitude = np.round(places.LATITUDE[city] + world.people.latitude[user], 3)
    return latitude, np.round(places.LONGITUDE[city] + world.people.longitude[user], 3)


def _with_what(
    world: World, day: int, user: np.ndarray, online: np.ndarray, odd: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """int8[n]: the usual method or the second; the second is replaced every few years."""
    who, count = world.people, len(user)
    life = who.card_life[user]
    renewed = (day + (hashed(world.seed, user, 31) % life.astype(np.uint64)).astype(np.int64)) // life
    second = (who.method[user, 1] + renewed) % len(people_of.METHODS)
    loyal = np.where(online, who.loyal[user] * 0.95, who.loyal[user])
    method = np.where(rng.random(count) < loyal, who.method[user, 0], second)
    strange = (rng.random(count) < 0.001 * world.options.odd) & (odd == 0)
    odd[strange] = METHOD
    return np.where(strange, rng.integers(0, len(people_of.METHODS), count), method).astype(np.int8)


def _device(
    world: World, day: int, user: np.ndarray, online: np.ndarray, method: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """int64[n]: phone or computer online unless a guest, the phone for a wallet in a shop, else -1."""
    count = len(user)
    phone = device_number(user, people_of.phone_of(world.people, world.seed, user, day))
    computer = device_number(user, np.full(count, 63))
    used = np.where(rng.random(count) < 0.7, phone, computer)
    guest = rng.random(count) < _GUEST
    in_shop = np.where(method == people_of.METHODS.index("digital_wallet"), phone, -1)
    return np.where(online, np.where(guest, -1, used), in_shop)


def device_number(user: np.ndarray, which: np.ndarray) -> np.ndarray:
    """int64[n]: unique per user and device, under 2**40 for up to ten million users."""
    return user.astype(np.int64) * 128 + which.clip(0, 63)
