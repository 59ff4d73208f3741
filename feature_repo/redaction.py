"""Card data in text that was never meant to hold any: found, and masked before the text is kept or shown.

A card number is 13 to 19 digits that pass Luhn's check (ISO/IEC 7812-1), in whole groups with nothing but
spaces and dashes between them, in any script. One random number of that length in ten passes by chance.
"""

import re
import unicodedata
from collections.abc import Sequence

# Names, folded to small letters and digits, of fields that hold a card's security code (PCI DSS 3.3: never kept).
SECRET_NAMES = (
    "cvv",
    "cvv2",
    "cvc",
    "cvc2",
    "csc",
    "cav2",
    "cvn",
    "cvn2",
    "cvvcode",
    "cvccode",
    "cvvnumber",
    "cardcvv",
    "cardcvv2",
    "cardcvc",
    "cardcvc2",
    "cardcsc",
    "securitycode",
    "cardsecuritycode",
    "cardverificationcode",
    "cardverificationvalue",
    "cardverificationnumber",
)

_UNIT = re.compile(r"\\u[0-9a-fA-F]{4}|\\[\x00-\x7f]?|[^\x00-\x7f]|[^\\\x80-\U0010ffff]+")
_RUN = re.compile(r"[0-9](?:[\s\x00-]*[0-9]){12,}")
_GROUP = re.compile(r"[0-9]+")
# A key with its colon, then its value, in JSON or nearly so: what is refused is often not quite JSON.
_KEY = re.compile(r"""["']?([^"'{}\[\],:=]+)["']?\s*[:=]\s*""")
_VALUE = re.compile(r"""\"(?:[^\"\\]|\\.)*|'[^']*|[\[{].*|[^\s,}\]]*""", re.DOTALL)

# Most text holds nothing of the kind; these tell so within a microsecond.
_DIGITS_ALIKE = bytes.maketrans(b"123456789", b"0" * 9)
_NOT_IN_NAMES = bytes(byte for byte in range(256) if not chr(byte).isalnum() or byte > 0x7F)
_ROOTS = (b"cvv", b"cvc", b"csc", b"cav2", b"cvn", b"securitycode", b"cardverification")  # of SECRET_NAMES


def holds_card_number(text: str) -> bool:
    return bool(_cards("".join(map(_ascii, text))))


def redact(payload: bytes) -> bytes:
    """The payload with every digit of a card number, and every value of a security code's field, as asterisks.

    What is kept stays where it was, byte for byte, UTF-8 or not.
    """
    text = payload.decode("utf-8", "surrogateescape")
    plain, positions = _unescaped(text)
    spans = _cards(plain)
    squeezed = plain.encode("ascii").lower().translate(None, _NOT_IN_NAMES)
    if any(root in squeezed for root in _ROOTS):
        spans += _secrets(plain)
    if not spans:
        return payload
    masked = list(text)
    for start, stop in spans:
        for at in range(positions[start], positions[stop]):
            if masked[at].isalnum() or masked[at] == "\\":
                masked[at] = "*" * len(masked[at].encode("utf-8", "surrogateescape"))
    return "".join(masked).encode("utf-8", "surrogateescape")


def _unescaped(text: str) -> tuple[str, Sequence[int]]:
    """What JSON text says in ASCII, and where in the text each character comes from (one more: its end).

    Escapes are read, digits of all scripts become 0 to 9, their spaces and dashes a space, all else an x.
    """
    if text.isascii() and "\\" not in text:
        return text, range(len(text) + 1)
    plain: list[str] = []
    positions: list[int] = []
    for unit in _UNIT.finditer(text):
        said = unit[0]
        if said[0] == "\\":
            said = _ascii(chr(int(said[2:], 16))) if len(said) == 6 else (" " if said[1:] in ("t", "n", "r") else said)
        elif not said[0].isascii():
            said = _ascii(said)
        plain.append(said)
        positions += range(unit.start(), unit.start() + len(said))
    return "".join(plain), [*positions, len(text)]


def _ascii(character: str) -> str:
    if character.isascii():
        return character if character not in '"\\' else "x"
    digit = unicodedata.digit(character, None)
    if digit is not None:
        return str(digit)
    # formats: what has no width can stand between digits and not be seen
    return " " if unicodedata.category(character) in ("Zs", "Pd", "Cf") or character == "\u2212" else "x"


def _cards(plain: str) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    if b"0" * 13 not in plain.encode("ascii").translate(_DIGITS_ALIKE, b" -\t\n\r\v\f\0"):
        return found
    for run in _RUN.finditer(plain):
        groups = list(_GROUP.finditer(plain, *run.span()))
        for first, begin in enumerate(groups):
            digits = ""
            for end in groups[first:]:
                digits += end[0]
                if len(digits) > 19:
                    break
                if len(digits) >= 13 and _is_luhn(digits):
                    found.append((begin.start(), end.end()))
    return found


def _is_luhn(digits: str) -> bool:
    doubled = (2 * int(digit) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(double - 9 if double > 9 else double for double in doubled)) % 10 == 0


def _secrets(plain: str) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for key in _KEY.finditer(plain):
        folded = "".join(letter for letter in key[1].lower() if letter.isalnum())
        value = _VALUE.match(plain, key.end())
        if folded in SECRET_NAMES and value is not None:
            found.append(value.span())
    return found
