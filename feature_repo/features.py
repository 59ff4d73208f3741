"""The feature catalogue: every feature once, with its window, meaning and reason code.

The order of `CATALOGUE` is the order of the kernel's output columns; a model selects columns by name.
New features are appended, never inserted. `version` of a feature moves whenever its meaning does, so
`feature_set_id` tells whether a model can be served by the kernel that runs.

Windows end at `now` = the later of the payment's event time and the newest the user's state has seen,
and hold only payments that arrived before it; `WINDOWS` says what each kind of window holds. In meanings,
"shrunk" is "times n / (n + k)": n payments that it rests on, k = SHRINK_K; so it is 0 without history.
`docs/features.md` is made of this file: `vigil features --markdown`.

`above(ratio)` is log((1 + ratio) / 2): 0 at 1, a logarithm far above it, and bounded below, as payments of
next to nothing are no more remarkable than small ones.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum

RING_SIZE = 32
SHRINK_K = 5.0  # payments' worth of belief in "ordinary", for users with little history (MODELS.md: 5 to 10)
AIRLINER_KM_PER_HOUR = 900.0  # of speeds, the first that no honest traveller is much above
MIN_HISTORY_FOR_REASONS = 5  # below this many payments no reason compares a user with himself

# Kinds of windows, the first that fits a part of a feature's `window` counts.
WINDOWS: dict[str, str] = {
    "-": "everything since the user's first payment, or since their last silence of 30 days",
    "ring": f"the user's last {RING_SIZE} payments by arrival, as far as they lie in the time named",
    "half-life": "everything, each payment weighing half as much for every so many days it lies before `now`",
    "snapshot": "the merchant's row of the newest daily snapshot when the payment arrived; a merchant without a row, "
    "and every merchant while no snapshot was ever made, has no payments and no risk beyond that of all merchants: 0",
    "hours": "whole hourly tiles: the hour of `now` and the 23 before it",
    "days": "whole daily tiles (UTC): the day of `now` and the 6 or 29 before it",
}


class Reason(StrEnum):
    """Closed set of reasons an analyst can meet."""

    UNUSUAL_AMOUNT = "unusual_amount_for_user"
    BURST = "burst_of_activity"
    UNUSUAL_HOUR = "unusual_hour_for_user"
    NEW_MERCHANT = "new_merchant_for_user"
    NEW_LOCATION = "new_location_for_user"
    IMPOSSIBLE_TRAVEL = "impossible_travel"
    RISKY_MERCHANT = "risky_merchant"
    CARD_TESTING = "card_testing_pattern"
    NEW_PAYMENT_METHOD = "new_payment_method"
    SPARSE_USER = "new_or_sparse_user"


REASONS: tuple[Reason, ...] = tuple(Reason)  # a reason's position here is its code on the wire

# Reasons that compare a user with their own past: meaningless under MIN_HISTORY_FOR_REASONS payments.
USER_RELATIVE = frozenset(
    {
        Reason.UNUSUAL_AMOUNT,
        Reason.BURST,
        Reason.UNUSUAL_HOUR,
        Reason.NEW_MERCHANT,
        Reason.NEW_LOCATION,
        Reason.NEW_PAYMENT_METHOD,
    }
)


@dataclass(frozen=True)
class Feature:
    """One column. `filtered`: rests on a Bloom filter of what the user's payments named (state.py)."""

    name: str
    window: str  # kinds of WINDOWS
    meaning: str
    reason: Reason
    version: int = 1
    dtype: str = "float32"
    filtered: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which kinds of WINDOWS it rests on. Raises StopIteration where a part of `window` is of none."""
        return tuple(next(kind for kind in WINDOWS if kind in part.split()) for part in self.window.split(" / "))

    @property
    def beyond_ring(self) -> str:
        """What becomes of a user with more than RING_SIZE payments in the window."""
        if "ring" in self.kinds:
            return f"of the last {RING_SIZE}"
        return "nearly exact (filter)" if self.filtered else "exact"


CATALOGUE: tuple[Feature, ...] = (
    Feature("amount_log", "-", "log(1 + amount)", Reason.UNUSUAL_AMOUNT),
    Feature("amount_ratio_7d", "7 days", "above(amount / mean amount), shrunk", Reason.UNUSUAL_AMOUNT, 2),
    Feature("amount_ratio_30d", "30 days", "above(amount / mean amount), shrunk", Reason.UNUSUAL_AMOUNT, 2),
    Feature("amount_z", "-", "z of the log amount, -log(1 - z) where under 0, shrunk", Reason.UNUSUAL_AMOUNT, 2),
    Feature("amount_to_max", "ring", "above(amount / largest of the ring), 0 without any", Reason.UNUSUAL_AMOUNT, 2),
    Feature("count_10m", "ring 10 min", "log(1 + payments)", Reason.BURST),
    Feature("count_1h", "ring 1 h", "log(1 + payments)", Reason.BURST),
    Feature("count_24h", "24 hours", "log(1 + payments)", Reason.BURST),
    Feature("rate_24h", "24 hours / 30 days", "log of (1 + payments) over (1 + payments of a usual day)", Reason.BURST),
    Feature(
        "spend_24h", "24 hours / 30 days", "above(sum / sum of a usual day), 0 with no history", Reason.UNUSUAL_AMOUNT,
        2,
    ),
    Feature("since_last", "-", "log(1 + seconds since the user's newest payment), 0 when late", Reason.BURST),
    Feature("hour_distance", "-", "1 - closeness to the user's usual hours, 0 to 2, shrunk", Reason.UNUSUAL_HOUR),
    Feature("new_merchant", "-", "1 where the user never paid there, shrunk", Reason.NEW_MERCHANT, filtered=True),
    Feature("merchants_24h", "ring 24 h", "log(1 + distinct merchants)", Reason.NEW_MERCHANT),
    Feature("new_location", "-", "1 where the user never paid in it, shrunk", Reason.NEW_LOCATION, filtered=True),
    Feature("locations_24h", "ring 24 h", "log(1 + distinct locations)", Reason.NEW_LOCATION),
    Feature(
        "travel_speed", "-", "log(1 + speed from the last coordinates / 900 km/h), 0 without any",
        Reason.IMPOSSIBLE_TRAVEL, 2,
    ),
    Feature("new_method", "-", "1 where the user never paid by it, shrunk", Reason.NEW_PAYMENT_METHOD, filtered=True),
    Feature(
        "new_device", "-", "1 where a device is named and the user never used it, shrunk", Reason.NEW_PAYMENT_METHOD,
        filtered=True,
    ),
    Feature("small_run_1h", "ring 1 h", "log(1 + payments under a fifth of the 30 days' mean)", Reason.CARD_TESTING),
    Feature(
        "jump_after_small", "ring 1 h", "small_run_1h times the positive part of amount_ratio_30d",
        Reason.CARD_TESTING, 2,
    ),
    Feature("history", "-", "log(1 + payments of the user before this one)", Reason.SPARSE_USER),
    Feature(
        "amount_z_7d", "half-life 7 days", "amount_z with the weights of the window: of late", Reason.UNUSUAL_AMOUNT, 2
    ),
    Feature("rate_7d", "7 days / 30 days", "log of (1 + payments) over (1 + as many usual days')", Reason.BURST),
    Feature("merchant_repeats_24h", "ring 24 h", "log(1 + payments at this same merchant)", Reason.CARD_TESTING),
    Feature("merchant_volume_30d", "snapshot 30 days", "log(1 + payments at the merchant)", Reason.RISKY_MERCHANT),
    Feature(
        "merchant_risk_7d", "snapshot 7 days", "frauds reported per payment beyond all merchants' rate, shrunk (k 30)",
        Reason.RISKY_MERCHANT,
    ),
    Feature(
        "merchant_risk_30d", "snapshot 30 days",
        "frauds reported per payment beyond all merchants' rate, shrunk (k 30)", Reason.RISKY_MERCHANT,
    ),
)  # fmt: skip

NAMES: tuple[str, ...] = tuple(feature.name for feature in CATALOGUE)
WIDTH = len(CATALOGUE)


def positions(names: tuple[str, ...] | list[str]) -> list[int]:
    """Columns of `names` in the kernel's output. Raises KeyError naming the first unknown feature."""
    index = {name: position for position, name in enumerate(NAMES)}
    return [index[name] for name in names]


def feature_set_id(names: tuple[str, ...] | list[str]) -> str:
    """Identity of what a model consumes: names in order with the version of their meaning."""
    chosen = [CATALOGUE[position] for position in positions(names)]
    text = "\n".join(f"{f.name}|{f.window}|{f.version}" for f in chosen) + f"\nring={RING_SIZE},k={SHRINK_K}"
    return "fs_" + hashlib.sha256(text.encode()).hexdigest()[:16]
