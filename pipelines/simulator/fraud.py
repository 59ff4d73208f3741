"""One day of fraud: each mechanism starts from a genuine payment of the day, so busy cards are hit more.

`difficulty` d in [0, 1] shrinks what gives a mechanism away. What a mechanism truly is stands in
`Mechanism.reasons`: the first is the reason an analyst should read, the others are true as well. Which of
them a payment shows is told by `true_reasons`: a thief who disguises his device is not betrayed by it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr, pdtrc

from feature_repo.features import Reason
from pipelines.simulator import people as people_of
from pipelines.simulator import places
from pipelines.simulator.draws import Purpose, generator, hashed, uniform
from pipelines.simulator.genuine import SPREE, at_home, usual_log_amount
from pipelines.simulator.merchants import SIGMA
from pipelines.simulator.world import DAY_US, HOUR_US, Rows, World

LONGEST_US = 3 * DAY_US  # from the day an episode starts to its last payment, at most
_INTERNET = len(places.NAMES)
_MINUTE_US = HOUR_US // 60
_STRANGE_DEVICES = 1 << 39  # people's own devices are numbered far below
_DISTANCES_KM = places.distances_km()
_COMPROMISED_DAYS = 60  # long enough for most reports of its first weeks to arrive while it goes on


@dataclass(frozen=True)
class Mechanism:
    name: str
    share: float  # of all fraudulent payments
    size: float  # mean payments per episode
    reasons: tuple[Reason, ...]
    make: Callable[[World, Rows, np.random.Generator], Rows]  # one victim's payment per episode -> payments


def day_of_payments(world: World, day: int, genuine: Rows) -> Rows:
    """Fraudulent payments of the episodes that start that day, and genuine ones a mechanism turned into fraud."""
    rng = generator(world.seed, Purpose.FRAUD, day)
    parts: list[Rows] = []
    kinds = list(enumerate(MECHANISMS, start=1))
    if world.options.new_mechanism_day is not None and day >= world.options.new_mechanism_day:
        kinds.append((NEW_CODE, NEW_MECHANISM))
    for code, mechanism in kinds:
        wanted = len(genuine) * world.options.prevalence * mechanism.share / mechanism.size
        episodes = rng.poisson(wanted)
        if len(genuine) == 0 or episodes == 0:
            continue
        made = mechanism.make(world, genuine.take(rng.integers(0, len(genuine), episodes)), rng)
        made = made.take(made.time < world.midnight_us(day) + LONGEST_US)
        parts.append(replace(made, mechanism=np.full(len(made), code, dtype=np.int8)))
    return Rows.joined(parts) if parts else genuine.take(np.zeros(0, dtype=np.int64))


def compromised(world: World, day: int, genuine: Rows, rng: np.random.Generator) -> np.ndarray:
    """int8[n]: the mechanism of genuine-looking payments at a merchant whose terminal is compromised.

    Nothing in such a payment tells; only the merchant's labels do, once they arrive.
    """
    chosen = _compromised_merchants(world, day)[genuine.merchant] & (rng.random(len(genuine)) < _taken(world))
    return np.where(chosen, COMPROMISED_CODE, 0).astype(np.int8)


def _taken(world: World) -> float:
    """Share of the payments at a compromised merchant that are fraud."""
    return 0.6 - 0.4 * world.options.difficulty


def _compromised_merchants(world: World, day: int) -> np.ndarray:
    """bool[merchants]: whose terminal is compromised that day.

    Large merchants are spared, or one of them would swamp a whole history, and so are the smallest, whose labels
    say nothing.
    """
    share = SHARE_AT_COMPROMISED * world.options.prevalence
    traffic, number = world.merchants.traffic, np.arange(len(world.merchants.traffic))
    middling = (traffic > 0.25 / len(traffic)) & (traffic < 1.2 / len(traffic))
    threshold = min(1.0, share / _taken(world) / max(traffic[middling].sum(), 1e-9))
    # Each merchant's periods begin on a day of its own, so that not all are found out at once.
    period = (
        day + (hashed(world.seed, number, 42) % np.uint64(_COMPROMISED_DAYS)).astype(np.int64)
    ) // _COMPROMISED_DAYS
    hit: np.ndarray = (uniform(world.seed, number, period, 41) < threshold) & middling
    return hit


def _repeated(victims: Rows, counts: np.ndarray, wait_us: np.ndarray) -> tuple[Rows, np.ndarray]:
    """Victim k repeated counts[k] times; times grow by the waits. Also int64[n]: position in the episode."""
    rows = victims.take(np.repeat(np.arange(len(victims)), counts))
    position = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    total = np.cumsum(wait_us)
    before = np.repeat((total - wait_us)[np.cumsum(counts) - counts], counts)
    return replace(rows, time=rows.time + total - before), position


def _waits(count: int, mean_us: float, rng: np.random.Generator) -> np.ndarray:
    return (rng.exponential(mean_us, count) + 20_000_000).astype(np.int64)


def _priced(world: World, rows: Rows, log_factor: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int64[n], cents: what the user ordinarily pays there, times exp(log_factor)."""
    log = usual_log_amount(world, rows.user, rows.merchant) + log_factor
    log += SIGMA[world.merchants.category[rows.merchant]] * rng.normal(size=len(rows))
    return np.maximum(np.rint(np.exp(log) * 100), 50).astype(np.int64)


def _at(world: World, rows: Rows, merchant: np.ndarray, city: np.ndarray) -> Rows:
    """The rows moved to other merchants, the buyer being in `city`."""
    market = world.merchants
    online = market.online[merchant]
    place = np.where(online, city, market.city[merchant]).astype(np.int16)
    latitude, longitude = at_home(world, rows.user, place)
    return replace(
        rows,
        merchant=merchant.astype(np.int32),
        city=place,
        latitude=np.where(online, latitude, market.latitude[merchant]),
        longitude=np.where(online, longitude, market.longitude[merchant]),
    )


def _stolen_card(world: World, victims: Rows, rng: np.random.Generator) -> Rows:
    """A few large payments within hours, in the victim's city or online as a guest, with his own card."""
    d = world.options.difficulty
    counts = 1 + rng.poisson(1.8, len(victims))
    rows, _ = _repeated(victims, counts, _waits(counts.sum(), 5 * HOUR_US, rng))
    familiar = rng.random(len(rows)) < 0.35
    place = np.where(rng.random(len(rows)) < 0.45, _INTERNET, rows.city)
    merchant = np.where(familiar, rows.merchant, world.merchants.valuable.draw(place, rng.random(len(rows))))
    rows = _at(world, rows, merchant, rows.city)
    factor = rng.normal(2.4 - 1.8 * d, 0.6, len(rows)) + np.where(familiar, 0.7, 0.0)
    return replace(
        rows, cents=_priced(world, rows, factor, rng), device=np.full(len(rows), -1), odd=np.zeros(len(rows), np.int8)
    )


def _card_testing(world: World, victims: Rows, rng: np.random.Generator) -> Rows:
    """A run of tiny online payments, then one or two large ones."""
    d = world.options.difficulty
    tests = 2 + rng.poisson(5.0 - 4.0 * d, len(victims))
    counts = tests + 1 + (rng.random(len(victims)) < 0.4)
    position_gap = _waits(counts.sum(), (4 + 20 * d) * _MINUTE_US, rng)
    start = (rng.uniform(0, 12, len(victims)) * HOUR_US).astype(np.int64)
    rows, position = _repeated(replace(victims, time=victims.time + start), counts, position_gap)
    large = position >= np.repeat(tests, counts)
    shop = world.merchants.all.draw(np.full(len(victims), _INTERNET), rng.random(len(victims)))
    pool = np.full(len(rows), _INTERNET)
    merchant = np.where(large, world.merchants.valuable.draw(pool, rng.random(len(rows))), np.repeat(shop, counts))
    rows = _at(world, rows, merchant, rows.city)
    tiny = np.rint(np.exp(rng.normal(np.log(1.2) + 1.8 * d, 0.6, len(rows))) * 100)
    cents = np.where(large, _priced(world, rows, rng.normal(1.9 - 1.2 * d, 0.5, len(rows)), rng), tiny)
    return replace(
        rows,
        cents=np.maximum(cents, 30).astype(np.int64),
        device=np.full(len(rows), -1),
        odd=np.zeros(len(rows), np.int8),
    )


def _account_takeover(world: World, victims: Rows, rng: np.random.Generator) -> Rows:
    """Somebody else's device, place and hour; each of the three may be disguised."""
    d, count = world.options.difficulty, len(victims)
    shown = 0.95 - 0.3 * d
    seen = rng.random((3, count)) < shown
    away = np.mod(world.people.hour[victims.user] + 12 + 2.5 * rng.normal(size=count), 24.0)
    at_night = victims.time // DAY_US * DAY_US + (away * HOUR_US).astype(np.int64)
    counts = 1 + rng.poisson(1.5, count)
    begun = replace(
        victims, time=np.where(seen[0], np.maximum(at_night, victims.time // DAY_US * DAY_US), victims.time)
    )
    rows, _ = _repeated(begun, counts, _waits(counts.sum(), 3 * HOUR_US, rng))
    device = np.where(seen[1], _STRANGE_DEVICES + rng.integers(0, 1 << 38, count), victims.device)
    city = np.where(seen[2], rng.integers(0, _INTERNET, count), victims.city)
    merchant = world.merchants.all.draw(np.full(len(rows), _INTERNET), rng.random(len(rows)))
    rows = _at(world, rows, merchant, np.repeat(city, counts))
    new_method = rng.random(count) < 0.5 * shown
    method = np.where(new_method, rng.integers(0, len(people_of.METHODS), count), victims.method)
    return replace(
        rows,
        cents=_priced(world, rows, rng.normal(0.9 - 0.7 * d, 0.5, len(rows)), rng),
        device=np.repeat(device, counts),
        method=np.repeat(method, counts).astype(np.int8),
        odd=np.zeros(len(rows), np.int8),
    )


def _impossible_travel(world: World, victims: Rows, rng: np.random.Generator) -> Rows:
    """A copied card at a till far away, while its owner has just paid at home."""
    d, count = world.options.difficulty, len(victims)
    far = _DISTANCES_KM[victims.city] > 2_500 - 2_000 * d
    ticket = rng.random((count, _INTERNET)) * far
    city = ticket.argmax(axis=1)
    counts = 1 + rng.poisson(0.8, count)
    rows, _ = _repeated(victims, counts, _waits(counts.sum(), (5 + 20 * d) * _MINUTE_US, rng))
    there = np.repeat(city, counts)
    merchant = world.merchants.all.draw(there, rng.random(len(rows)))
    rows = _at(world, rows, merchant, there)
    return replace(
        rows,
        cents=_priced(world, rows, rng.normal(0.8 - 0.6 * d, 0.4, len(rows)), rng),
        device=np.full(len(rows), -1),
        odd=np.zeros(len(rows), np.int8),
    )


def _mimicry(world: World, victims: Rows, rng: np.random.Generator) -> Rows:
    """Payments like the victim's own, where and at the hour he pays anyway, a little dearer, one a day."""
    d = world.options.difficulty
    counts = 1 + rng.poisson(1.5, len(victims))
    late = rng.normal(0, HOUR_US / 2, counts.sum()).astype(np.int64)
    rows, _ = _repeated(victims, counts, DAY_US + late)
    factor = rng.normal(0.5 - 0.6 * d, 0.3, len(rows))
    return replace(rows, cents=_priced(world, rows, factor, rng), odd=np.zeros(len(rows), np.int8))


def _persuaded_owner(world: World, victims: Rows, rng: np.random.Generator) -> Rows:
    """The owner himself, talked into it: his device, his place and his hours, but transfers to somebody new."""
    d = world.options.difficulty
    counts = 1 + rng.poisson(0.6, len(victims))
    rows, _ = _repeated(victims, counts, _waits(counts.sum(), 40 * _MINUTE_US, rng))
    shop = world.merchants.valuable.draw(np.full(len(victims), _INTERNET), rng.random(len(victims)))
    rows = _at(world, rows, np.repeat(shop, counts), rows.city)
    return replace(
        rows,
        cents=_priced(world, rows, rng.normal(2.2 - 1.4 * d, 0.5, len(rows)), rng),
        method=np.full(len(rows), people_of.METHODS.index("bank_transfer"), dtype=np.int8),
        odd=np.zeros(len(rows), np.int8),
    )


MECHANISMS: tuple[Mechanism, ...] = (
    Mechanism("stolen_card", 0.36, 2.8, (Reason.UNUSUAL_AMOUNT,), _stolen_card),
    Mechanism("card_testing", 0.08, 6.4, (Reason.CARD_TESTING, Reason.BURST, Reason.UNUSUAL_AMOUNT), _card_testing),
    Mechanism(
        "account_takeover",
        0.15,
        2.5,
        (Reason.NEW_PAYMENT_METHOD, Reason.NEW_LOCATION, Reason.UNUSUAL_HOUR),
        _account_takeover,
    ),
    Mechanism("impossible_travel", 0.08, 1.8, (Reason.IMPOSSIBLE_TRAVEL, Reason.NEW_LOCATION), _impossible_travel),
    Mechanism("mimicry", 0.20, 1.8, (Reason.UNUSUAL_AMOUNT,), _mimicry),
)
SHARE_AT_COMPROMISED = 0.13
SELDOM = 1 / 80  # of a user's own payments: what is as rare as that, or rarer, is unlike him
STRANGE_HOUR = 2.5  # of the user's own spreads from the middle of his hours; SELDOM in them
COMPROMISED_CODE = len(MECHANISMS) + 1
NEW_MECHANISM = Mechanism(
    "persuaded_owner",
    0.15,
    1.6,
    (Reason.NEW_MERCHANT, Reason.UNUSUAL_AMOUNT, Reason.NEW_PAYMENT_METHOD),
    _persuaded_owner,
)
NEW_CODE = COMPROMISED_CODE + 1
MECHANISM_NAMES: tuple[str, ...] = (
    "",
    *(mechanism.name for mechanism in MECHANISMS),
    "compromised_merchant",
    NEW_MECHANISM.name,
)
TRUE_REASONS: tuple[tuple[str, ...], ...] = (
    (),
    *(tuple(reason.value for reason in mechanism.reasons) for mechanism in MECHANISMS),
    (Reason.RISKY_MERCHANT.value,),
    tuple(reason.value for reason in NEW_MECHANISM.reasons),
)


def true_reasons(world: World, rows: Rows, among: Rows) -> list[list[str]]:
    """Of fraudulent payments: every code that is true of each, what an analyst should read standing first.

    `among` are all payments of their day and the day before, the owners' too. The mechanism's own reasons come
    first, in its order, but those the payment does not show; then whatever else the thief did unlike his victim.
    What a mechanism takes is its own whatever the amount. Where the thief disguised everything, the amount is left.
    """
    shown = _shown(world, rows, among)
    told = []
    for row, code in enumerate(rows.mechanism.tolist()):
        own = [
            reason
            for reason in TRUE_REASONS[code]
            if reason not in shown or shown[reason][row] or reason == Reason.UNUSUAL_AMOUNT
        ]
        others = [reason for reason, seen in shown.items() if seen[row] and reason not in own]
        if Reason.NEW_LOCATION.value in own and Reason.IMPOSSIBLE_TRAVEL.value not in own:
            others.append(Reason.IMPOSSIBLE_TRAVEL.value)  # the owner has not left his town
        told.append(own + others or [Reason.UNUSUAL_AMOUNT.value])
    return told


def _shown(world: World, rows: Rows, among: Rows) -> dict[str, np.ndarray]:
    """bool[n] by code: what can be seen in a payment, whoever made it, given the ways of the card's owner."""
    who, user = world.people, rows.user
    hour = (rows.time % DAY_US) / HOUR_US
    apart = np.abs(np.mod(hour - who.hour[user] + 12, 24) - 12)
    own_place = (rows.city == who.home[user]) | (rows.city == who.new_home[user]) | (rows.city == who.second[user])
    own_method = (rows.method[:, None] == who.method[user]).any(axis=1)
    dearer = _share_of_dearer(world, rows)
    return {
        Reason.NEW_PAYMENT_METHOD.value: (rows.device >= _STRANGE_DEVICES) | ~own_method,
        Reason.NEW_LOCATION.value: ~own_place,
        Reason.UNUSUAL_HOUR.value: apart > STRANGE_HOUR * who.spread[user],
        Reason.NEW_MERCHANT.value: ~(rows.merchant[:, None] == who.favourites[user]).any(axis=1),
        Reason.BURST.value: _in_a_burst(world, rows, among),
        Reason.UNUSUAL_AMOUNT.value: np.minimum(dearer, 1 - dearer) < SELDOM / 2,
        Reason.RISKY_MERCHANT.value: _at_compromised(world, rows),
    }


def _share_of_dearer(world: World, rows: Rows) -> np.ndarray:
    """float64[n]: the share of the owner's payments at his favourites that are dearer."""
    favourites = world.people.favourites[rows.user]
    share = np.diff(world.people.favourite_share[rows.user], axis=1, prepend=0.0)
    usual = usual_log_amount(world, rows.user[:, None], favourites)
    above = ndtr((usual - np.log(rows.cents / 100)[:, None]) / SIGMA[world.merchants.category[favourites]])
    dearer: np.ndarray = (share * above).sum(axis=1)
    return dearer


def _in_a_burst(world: World, rows: Rows, among: Rows) -> np.ndarray:
    """bool[n]: an hour, three or a day before held so many payments with the card as its owner SELDOM makes.

    Taken for Poisson: his rate, by the hour as two of his payments meet, and with it a second one on a spree.
    """
    rate, spread = world.people.rate[rows.user], world.people.spread[rows.user]
    meeting = rate / (2 * np.sqrt(np.pi) * spread)  # payments within an hour of another one
    burst = np.zeros(len(rows), bool)
    for hours, expected in ((1, SPREE + meeting), (3, SPREE + 3 * meeting), (24, rate)):
        count = _earlier(rows, among, hours * HOUR_US)
        burst |= (count > 0) & (pdtrc(np.maximum(count - 1, 0), expected) < SELDOM)
    return burst


def _earlier(rows: Rows, among: Rows, within_us: int) -> np.ndarray:
    """int64[n]: payments of `among` with the same card in the time before, at the very moment not included."""
    if len(rows) == 0:
        return np.zeros(0, np.int64)
    start = min(among.time.min(), rows.time.min()) - within_us
    length = max(among.time.max(), rows.time.max()) - start + 1
    line = np.sort(among.user.astype(np.int64) * length + (among.time - start))  # users' times one after the other
    moment = rows.user.astype(np.int64) * length + (rows.time - start)
    return np.searchsorted(line, moment) - np.searchsorted(line, moment - within_us)


def _at_compromised(world: World, rows: Rows) -> np.ndarray:
    """bool[n]: paid at a merchant whose terminal is compromised that day, by this fraud or another."""
    day = (rows.time - world.first_midnight_us) // DAY_US
    found = np.zeros(len(rows), bool)
    for today in np.unique(day):
        chosen = day == today
        found[chosen] = _compromised_merchants(world, int(today))[rows.merchant[chosen]]
    return found
