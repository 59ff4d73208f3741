"""A batch of messages on its way through the parser: its bytes, and what each pass found in them."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo import decode, json_tokens, literals, scan, transaction
from feature_repo.columns import text_column
from feature_repo.normal import is_wellformed, normalised, plain_characters
from feature_repo.redaction import SECRET_NAMES, holds_card_number

FIELDS = transaction.REQUIRED + transaction.OPTIONAL
_ROLES = {
    "transaction_id": decode.ID,
    "user_id": decode.ID,
    "device_id": decode.ID,
    "amount": decode.AMOUNT,
    "timestamp": decode.TIME,
    "currency": decode.CURRENCY,
    "latitude": decode.LATITUDE,
    "longitude": decode.LONGITUDE,
}  # all others are text
_LIMITS = scan.Limits(transaction.MAX_PAYLOAD_BYTES, transaction.MAX_DEPTH, transaction.MAX_KEYS)


@dataclass
class Batch:
    """Made by `of`; then `scan`, `decode` and `settle`, in this order; then `payments`."""

    data: npt.NDArray[np.uint8]  # of all messages, read-only
    offsets: npt.NDArray[np.int64]  # [rows + 1] into data
    present: npt.NDArray[np.uint8]  # 0 for a tombstone
    tokens: scan.Tokens
    findings: scan.Findings
    values: decode.Values
    side: scan.Side  # text that is not in `data` as it is; begins with the default currency

    @classmethod
    def of(cls, messages: pa.Array, currency: str) -> "Batch":
        """Of a binary or large_binary array, sliced or not. Copies no message."""
        rows = len(messages)
        data, offsets = _buffers(messages)
        present = np.ones(rows, np.uint8)
        if messages.null_count:
            present = messages.is_valid().to_numpy(zero_copy_only=False).astype(np.uint8)
        side = np.empty(len(data) + len(currency), np.uint8)
        side[: len(currency)] = np.frombuffer(currency.encode("ascii"), np.uint8)
        shape = (len(FIELDS), rows)
        return cls(
            data=data,
            offsets=offsets,
            present=present,
            tokens=scan.Tokens(*(np.empty(shape, dtype) for dtype in ("i4", "i4", "u1"))),
            findings=scan.Findings(*(np.empty(rows, dtype) for dtype in ("u1", "i1", "i4", "i4"))),
            values=decode.Values(*(np.empty(rows, dtype) for dtype in ("f8", "i8", "f8", "f8", "u4"))),
            side=scan.Side(side, np.array([len(currency)])),
        )

    def scan(self) -> None:
        """Find every field."""
        keys = scan.Keys(
            start=np.empty(_LIMITS.keys + 1, np.int32),
            size=np.empty(_LIMITS.keys + 1, np.int32),
            hash=np.empty(_LIMITS.keys + 1, np.uint64),
            arena=np.empty(_LIMITS.bytes, np.uint8),
            first=np.zeros(_LIMITS.depth + 1, np.int32),
            used=np.zeros(2, np.int64),
        )
        content = self.data, self.offsets, self.present
        scan.scan_rows()(*content, _names(), _LIMITS, self.tokens, keys, self.side, self.findings)

    def decode(self, broker_time_us: npt.NDArray[np.int64], future_us: int, pan_in_ids: bool, currency: str) -> None:
        """Check every field and turn numbers and times into values."""
        decode.decode_rows()(
            self.data,
            _readonly(self.side.text),
            _readonly(np.asarray(broker_time_us, np.int64)),
            _rules(future_us, pan_in_ids),
            plain_characters(),
            np.empty(_LIMITS.bytes, np.uint8),
            self.tokens,
            self.values,
            self.findings,
        )
        start, size, kind = (of[FIELDS.index("currency")] for of in self.tokens)
        unnamed = kind == json_tokens.ABSENT
        start[unnamed], size[unnamed], kind[unnamed] = -1, len(currency), json_tokens.STRING

    def settle(self, pan_in_ids: bool) -> None:
        """Decide, field by field, what the compiled passes left open."""
        settled = bytearray()
        for row in np.flatnonzero((self.findings.number == json_tokens.OK) & (self.values.slow != 0)).tolist():
            for number, name in enumerate(FIELDS):
                if not self.values.slow[row] >> number & 1:
                    continue
                said, role = self._said(row, number), _ROLES.get(name, decode.TEXT)
                if role in (decode.ID, decode.TEXT):
                    finding, text = _settled_text(said.decode(), role, pan_in_ids)
                    self.tokens.start[number, row] = -1 - len(settled) - self.side.used[0]
                    self.tokens.size[number, row] = len(text)
                    settled += text
                else:
                    finding = self._settle_number(row, role, float(said))
                if finding != json_tokens.OK:
                    self.findings.number[row], self.findings.field[row] = finding, number
                    break
        if settled:
            side = np.concatenate([self.side.text[: self.side.used[0]], np.frombuffer(settled, np.uint8)])
            self.side = scan.Side(side, np.array([len(side)]))

    def _said(self, row: int, number: int) -> bytes:
        start, size = int(self.tokens.start[number, row]), int(self.tokens.size[number, row])
        if start < 0:
            return self.side.text[-1 - start : -1 - start + size].tobytes()
        return self.data[start : start + size].tobytes()

    def _settle_number(self, row: int, role: int, value: float) -> int:
        if role == decode.AMOUNT:
            self.values.amount[row] = value
            return json_tokens.OK
        of, limit = (self.values.latitude, 90) if role == decode.LATITUDE else (self.values.longitude, 180)
        of[row] = value
        return json_tokens.OK if abs(value) <= limit else literals.COORDINATE_RANGE

    def payments(self, rows: npt.NDArray[np.int64]) -> pa.RecordBatch:
        """Columns of transaction.SCHEMA, of the rows given."""
        columns = []
        for number, name in enumerate(FIELDS):
            match _ROLES.get(name, decode.TEXT):
                case decode.AMOUNT:
                    column = pa.array(self.values.amount[rows])
                case decode.TIME:
                    column = pa.array(self.values.time[rows]).view(pa.timestamp("us", tz="UTC"))
                case decode.LATITUDE:
                    column = pa.array(self.values.latitude[rows], from_pandas=True)  # NaN: none is given
                case decode.LONGITUDE:
                    column = pa.array(self.values.longitude[rows], from_pandas=True)
                case _:
                    start, size, kind = (of[number] for of in self.tokens)
                    column = text_column(self.data, self.side.text, start, size, kind, rows)
            columns.append(column)
        return pa.RecordBatch.from_arrays(columns, schema=transaction.SCHEMA)


def _buffers(messages: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Bytes of all messages, and where in them each one starts and the last one ends."""
    if pa.types.is_binary(messages.type):
        width: Any = np.int32
    elif pa.types.is_large_binary(messages.type):
        width = np.int64
    else:
        raise TypeError(f"messages are binary or large_binary, not {messages.type}")
    _, ends, content = messages.buffers()
    if len(messages) == 0 or ends is None or content is None:
        return _readonly(np.zeros(0, np.uint8)), np.zeros(len(messages) + 1, np.int64)
    end = messages.offset + len(messages) + 1
    offsets = np.frombuffer(ends, width)[messages.offset : end].astype(np.int64)
    first, last = int(offsets[0]), int(offsets[-1])
    return _readonly(np.frombuffer(content, np.uint8)[first:last]), offsets - first


def _readonly(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same memory as compiled code takes it for read-only, so that it is specialised once."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def _settled_text(text: str, role: int, pan_in_ids: bool) -> tuple[int, bytes]:
    """Finding, and what is kept: identifiers as they came, other text in NFC."""
    if role == decode.TEXT:
        text, limit, wrong = normalised(text), transaction.MAX_TEXT_CHARACTERS, decode.TEXT_FORMAT
    else:
        limit, wrong = transaction.MAX_ID_CHARACTERS, decode.ID_FORMAT
    if not is_wellformed(text, limit):
        return wrong, b""
    if (role == decode.TEXT or pan_in_ids) and holds_card_number(text):
        return decode.PAN_DETECTED, b""
    return json_tokens.OK, text.encode()


@cache
def _names() -> scan.Names:
    """The contract's fields as the table `scan` looks them up in."""
    text = np.zeros((len(FIELDS), max(map(len, FIELDS))), np.uint8)
    for number, name in enumerate(FIELDS):
        text[number, : len(name)] = np.frombuffer(name.encode(), np.uint8)
    slots = np.full(64, scan.NOWHERE, np.int8)
    for salt in range(1, 256):
        slot = [(len(name) + salt * ord(name[0]) + ord(name[-1])) % len(slots) for name in FIELDS]
        if len(set(slot)) == len(FIELDS):
            slots[slot] = np.arange(len(FIELDS))
            break
    else:
        raise ValueError("no salt tells the contract's fields apart")
    secrets = np.array([scan.folded_hash_of(name) for name in SECRET_NAMES], np.uint64)
    return scan.Names(slots, salt, text, np.array([len(name) for name in FIELDS]), secrets)


@cache
def _rules(future_us: int, pan_in_ids: bool) -> decode.Rules:
    return decode.Rules(
        roles=np.array([_ROLES.get(name, decode.TEXT) for name in FIELDS]),
        required=len(transaction.REQUIRED),
        id_characters=transaction.MAX_ID_CHARACTERS,
        text_characters=transaction.MAX_TEXT_CHARACTERS,
        amount_power=round(np.log10(transaction.MAX_AMOUNT)),
        decimals=transaction.AMOUNT_DECIMALS,
        future_us=future_us,
        pan_in_ids=pan_in_ids,
    )
