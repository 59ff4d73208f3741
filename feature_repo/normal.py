"""Characters and their normal form (Unicode NFC), and the text that compiled code leaves to Python."""

import unicodedata
from functools import cache

import numpy as np
import numpy.typing as npt

# Categories that need a closer look: controls, formats, digits of other scripts, spaces, dashes, unassigned.
_SPECIAL = frozenset(("Cc", "Cf", "Cn", "Co", "Cs", "Nd", "Nl", "No", "Zs", "Zl", "Zp", "Pd"))


@cache
def plain_characters() -> npt.NDArray[np.uint8]:
    """1 for each character below U+10000 of which text is its own normal form, and which is nothing special.

    A starter that does not decompose and composes with nothing before it: where all characters are such,
    the text is in NFC (Unicode Standard Annex 15, section 9).
    """
    second = {_second_of(character) for character in map(chr, range(0x10000))}
    plain = np.ones(0x10000, np.uint8)
    for point in range(0x80, 0x10000):
        character = chr(point)
        plain[point] = (
            unicodedata.category(character) not in _SPECIAL
            and unicodedata.combining(character) == 0
            and unicodedata.normalize("NFC", character) == character
            and character not in second
            and not 0x1100 <= point <= 0x11FF  # Hangul letters compose by rule
            and character != "\u2212"  # a minus sign is a dash to us
        )
    plain.flags.writeable = False
    return plain


def _second_of(character: str) -> str | None:
    """The character that composes to this one with a character before it."""
    parts = unicodedata.decomposition(character).split()
    return chr(int(parts[1], 16)) if len(parts) == 2 and not parts[0].startswith("<") else None


def normalised(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def is_wellformed(text: str, limit: int) -> bool:
    """At most `limit` characters, one of them visible, none a control character."""
    categories = [unicodedata.category(character) for character in text]
    return len(text) <= limit and "Cc" not in categories and any(c[0] not in "ZC" for c in categories)
