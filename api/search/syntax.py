"""The search language: words, "phrases", prefix*, field:term and OR. Nothing else reaches Elasticsearch.

coffee york              both words, each in any field
"new york"               the phrase
star*                    words that begin with it, three characters at least
location:boston          in that field only: merchant, location or payment_method
coffee OR tea            either side
"""

import re
import unicodedata
from dataclasses import dataclass

from api.errors import QuerySyntax

FIELDS = ("merchant", "location", "payment_method")
MAX_CHARACTERS = 256
MAX_TERMS = 32
MIN_PREFIX = 3  # a shorter one would visit most of the dictionary
RESERVED = set('*?~^()[]{}\\/:<>=|"!')  # outside quotes; other languages give them a meaning
UNSUPPORTED = {"AND", "NOT", "&&", "||", "TO"}

_TOKEN = re.compile(r'\s*(?:(?P<field>[a-z_]+):)?(?:"(?P<phrase>[^"]*)"|(?P<word>[^\s"]+))(?=\s|$)')


@dataclass(frozen=True)
class Term:
    """One condition; `fields` are the fields it may hold in."""

    text: str
    kind: str  # word, phrase or prefix
    fields: tuple[str, ...] = FIELDS


def parse(text: str) -> list[list[Term]]:
    """Alternatives, each a list of terms that must all hold. Raises QuerySyntax."""
    if len(text) > MAX_CHARACTERS:
        raise QuerySyntax(f"at most {MAX_CHARACTERS} characters")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise QuerySyntax("control characters are no text")
    if text.count('"') % 2:
        raise QuerySyntax("a quote is not closed")
    alternatives: list[list[Term]] = [[]]
    at, rest = 0, text.rstrip()
    while at < len(rest):
        found = _TOKEN.match(rest, at)
        if found is None:
            raise QuerySyntax("a quote stands inside a word")
        at = found.end()
        if found["word"] == "OR" and found["field"] is None:
            alternatives.append([])
        else:
            alternatives[-1].append(_term(found["field"], found["word"], found["phrase"]))
    if not all(alternatives):
        raise QuerySyntax("empty, or OR without a term on each side")
    if sum(map(len, alternatives)) > MAX_TERMS:
        raise QuerySyntax(f"at most {MAX_TERMS} terms")
    return alternatives


def phrase(text: str, fields: tuple[str, ...]) -> Term:
    """Words one behind the other. Raises QuerySyntax where there is none."""
    if not _searchable(text):
        raise QuerySyntax("a phrase without a letter or digit")
    return Term(text, "phrase", fields)


def _term(field: str | None, word: str | None, quoted: str | None) -> Term:
    if field is not None and field not in FIELDS:
        raise QuerySyntax(f"the fields are {', '.join(FIELDS)}")
    fields = FIELDS if field is None else (field,)
    if quoted is not None:
        return phrase(quoted, fields)
    assert word is not None
    if word in UNSUPPORTED:
        raise QuerySyntax("AND, NOT and ranges are not part of the syntax; words next to each other are all needed")
    stem = word.removesuffix("*")
    if RESERVED & set(stem):
        raise QuerySyntax("put words with special characters between quotes; * stands only at a word's end")
    if not _searchable(stem):
        raise QuerySyntax("a term without a letter or digit")
    if stem == word:
        return Term(word, "word", fields)
    if len(stem) < MIN_PREFIX:
        raise QuerySyntax(f"a prefix has {MIN_PREFIX} characters or more before its *")
    return Term(stem, "prefix", fields)


def _searchable(text: str) -> bool:
    return any(character.isalnum() for character in text)
