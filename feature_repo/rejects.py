"""The messages that are no payments, each with its code, a sentence, and what may be kept of it."""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feature_repo import decode, json_tokens, literals, scan, transaction
from feature_repo.codes import Code
from feature_repo.redaction import redact

KEPT_BYTES = 4096  # of a payload
_MARGIN = 512  # read beyond, so that a card number cut in two is still seen

FIELDS = transaction.REQUIRED + transaction.OPTIONAL

# What the compiled passes find, as the code of the table, and a sentence where the code's own is too general.
_MEANING: dict[int, tuple[Code, str]] = {
    json_tokens.TOMBSTONE: (Code.TOMBSTONE, ""),
    json_tokens.TOO_LARGE: (Code.TOO_LARGE, ""),
    json_tokens.EMPTY: (Code.EMPTY, ""),
    json_tokens.NOT_UTF8: (Code.NOT_UTF8, ""),
    json_tokens.NOT_JSON: (Code.NOT_JSON, "the message is not one JSON document (byte {at})"),
    json_tokens.NOT_OBJECT: (Code.NOT_OBJECT, ""),
    json_tokens.TOO_DEEP: (Code.TOO_DEEP, ""),
    json_tokens.TOO_MANY_KEYS: (Code.TOO_LARGE, f"the message has more than {transaction.MAX_KEYS} keys"),
    json_tokens.DUPLICATE_KEY: (Code.DUPLICATE_KEY, ""),
    json_tokens.NUMBER_NOT_FINITE: (Code.NUMBER_NOT_FINITE, ""),
    json_tokens.INVALID_UNICODE: (Code.INVALID_UNICODE, ""),
    json_tokens.SECRET_FIELD: (Code.PAN_DETECTED, "a card's security code must never be sent"),
    literals.AMOUNT_RANGE: (Code.RANGE, "{field} is not above 0 and at most 1e12"),
    literals.COORDINATE_RANGE: (Code.RANGE, "{field} is no such angle: at most 90 or 180 degrees either way"),
    literals.PRECISION: (Code.PRECISION, ""),
    literals.TIME_FORMAT: (Code.TIME_FORMAT, ""),
    literals.TIME_NO_ZONE: (Code.TIME_NO_ZONE, ""),
    literals.TIME_INVALID: (Code.TIME_INVALID, ""),
    decode.FIELD_MISSING: (Code.FIELD_MISSING, ""),
    decode.WRONG_TYPE: (Code.TYPE, ""),
    decode.ID_FORMAT: (Code.ID_FORMAT, ""),
    decode.TEXT_FORMAT: (Code.TEXT_FORMAT, ""),
    decode.CURRENCY_FORMAT: (Code.TEXT_FORMAT, "{field} is not three capital letters (ISO 4217)"),
    decode.TIME_FUTURE: (Code.TIME_FUTURE, ""),
    decode.PAN_DETECTED: (Code.PAN_DETECTED, ""),
}


@dataclass(frozen=True)
class Rejects:
    """One entry per refused message, in the order of the batch."""

    rows: npt.NDArray[np.int64]  # input row
    codes: list[str]
    details: list[str]  # a sentence that names the field, never its value
    fields: list[str]  # "" where none of the contract's is to blame
    payloads: list[bytes]  # first `KEPT_BYTES`, card data masked
    sizes: npt.NDArray[np.int64]  # bytes of the whole message
    sha256: list[bytes]  # of the whole message as it came


def kept_of(payload: bytes | memoryview) -> bytes:
    """What may be kept of a payload nobody vouches for: its first KEPT_BYTES, card data masked."""
    return redact(bytes(payload[: KEPT_BYTES + _MARGIN]))[:KEPT_BYTES]


def collect(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], findings: scan.Findings) -> Rejects:
    """The rows with a finding, their bytes taken from data[offsets[row]:offsets[row + 1]]."""
    rows = np.flatnonzero(findings.number != json_tokens.OK)
    starts, stops = offsets[rows], offsets[rows + 1]
    held = data.data
    rejects = Rejects(rows, [], [], [], [], stops - starts, [])
    found = zip(findings.number[rows].tolist(), findings.field[rows].tolist(), findings.at[rows].tolist(), strict=True)
    for (number, at_field, at), start, stop in zip(found, starts.tolist(), stops.tolist(), strict=True):
        code, sentence = _MEANING[number]
        field = FIELDS[at_field] if at_field >= 0 else ""
        rejects.codes.append(code.value)
        rejects.details.append((sentence or code.sentence).format(field=field or "a field outside the contract", at=at))
        rejects.fields.append(field)
        rejects.payloads.append(kept_of(held[start:stop]))
        rejects.sha256.append(hashlib.sha256(held[start:stop]).digest())
    return rejects
