"""What a payment is, said a second time: slowly, with Python's own json, decimal and datetime."""

import json
import math
import re
import unicodedata
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from feature_repo.redaction import SECRET_NAMES, holds_card_number
from feature_repo.transaction import OPTIONAL, REQUIRED

_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:([Zz])|([+-])(\d\d):(\d\d))", re.ASCII
)
_TEXTS = ("merchant", "location", "payment_method", "merchant_category", "channel")
_IDS = ("transaction_id", "user_id", "device_id")


class Refused(Exception):
    pass


def read(payload: bytes, latest_us: int) -> dict[str, Any]:
    """The payment's columns. Raises Refused."""
    try:
        text = payload.decode()
        pairs = json.loads(
            text, object_pairs_hook=Pairs, parse_constant=_refuse, parse_float=_number, parse_int=_number
        )
    except (ValueError, RecursionError) as error:
        raise Refused from error
    _require(len(payload) <= 65_536 and isinstance(pairs, Pairs) and _depth(pairs) <= 16 and _keys(pairs) <= 1_000)
    fields = {key: value for key, value in pairs.items if value is not None}
    _require(all(fields.get(name) is not None for name in REQUIRED))
    columns: dict[str, Any] = dict.fromkeys((*REQUIRED, *OPTIONAL))
    columns |= {name: _identifier(fields[name]) for name in _IDS if name in fields}
    columns |= {name: _text(fields[name]) for name in _TEXTS if name in fields}
    columns["amount"] = _amount(fields["amount"])
    columns["event_time"] = _time(fields["timestamp"])
    del columns["timestamp"]
    _require((columns["event_time"] - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) <= latest_us)
    columns["currency"] = fields.get("currency", "USD")
    _require(isinstance(columns["currency"], str) and re.fullmatch("[A-Z]{3}", columns["currency"]) is not None)
    columns["latitude"] = _angle(fields.get("latitude"), 90)
    columns["longitude"] = _angle(fields.get("longitude"), 180)
    _require((columns["latitude"] is None) == (columns["longitude"] is None))
    return columns


class Pairs:
    """An object as its pairs, none of them twice."""

    def __init__(self, items: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in items]
        _require(len(set(names)) == len(names))
        for name, value in items:
            _whole(name)
            _whole(value)
            _require("".join(c for c in name.lower() if c.isascii() and c.isalnum()) not in SECRET_NAMES)
        self.items = items


def _require(condition: bool) -> None:
    if not condition:
        raise Refused


def _refuse(_: str) -> None:
    raise Refused


def _number(literal: str) -> Decimal:
    _require(math.isfinite(float(literal)))
    try:
        return Decimal(literal)
    except InvalidOperation:  # an exponent beyond decimal's own: nothing, or as good as
        return Decimal(0)


def _whole(value: Any) -> None:
    """No half of a surrogate pair anywhere."""
    if isinstance(value, str):
        _require(not any("\ud800" <= character <= "\udfff" for character in value))
    elif isinstance(value, list):
        for one in value:
            _whole(one)


def _depth(value: Any) -> int:
    inside = value if isinstance(value, list) else [v for _, v in value.items] if isinstance(value, Pairs) else None
    return 0 if inside is None else 1 + max(map(_depth, inside), default=0)


def _keys(value: Any) -> int:
    inside = value if isinstance(value, list) else [v for _, v in value.items] if isinstance(value, Pairs) else []
    return (len(inside) if isinstance(value, Pairs) else 0) + sum(map(_keys, inside))


def _characters(value: Any, limit: int) -> str:
    _require(isinstance(value, str))
    categories = [unicodedata.category(character) for character in value]
    _require(len(value) <= limit and "Cc" not in categories and any(c[0] not in "ZC" for c in categories))
    return str(value)


def _identifier(value: Any) -> str:
    return _characters(value, 128)


def _text(value: Any) -> str:
    _require(isinstance(value, str))
    text = _characters(unicodedata.normalize("NFC", value), 256)
    _require(not holds_card_number(text))
    return text


def _amount(value: Any) -> float:
    _require(isinstance(value, Decimal) and 0 < value <= 10**12)
    _, digits, exponent = value.as_tuple()
    trailing = len(digits) - len("".join(map(str, digits)).rstrip("0"))
    _require(exponent + trailing >= -4)
    return float(value)


def _angle(value: Any, limit: int) -> float | None:
    if value is None:
        return None
    _require(isinstance(value, Decimal) and abs(float(value)) <= limit)
    return float(value)


def _time(value: Any) -> datetime:
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise Refused
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    ahead = timedelta(hours=int(match[10] or 0), minutes=int(match[11] or 0)) * (-1 if match[9] == "-" else 1)
    _require(int(match[10] or 0) < 24 and int(match[11] or 0) < 60)
    micros = int((match[7] or "0").ljust(6, "0")[:6])
    try:
        moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC) - ahead
        if second >= 60:
            moment += timedelta(seconds=1)
            _require(second == 60 and moment.day == 1 and moment.hour == 0 and moment.minute == 0)
        return moment + timedelta(microseconds=micros)
    except (ValueError, OverflowError) as error:
        raise Refused from error
