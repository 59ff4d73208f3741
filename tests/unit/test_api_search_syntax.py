"""The search language: what it takes, and that nothing else reaches Elasticsearch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import QuerySyntax
from api.search.repository import any_of, matching
from api.search.syntax import FIELDS, MAX_TERMS, Term, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("coffee", [[Term("coffee", "word")]]),
        ("  new   york ", [[Term("new", "word"), Term("york", "word")]]),
        ('"new york"', [[Term("new york", "phrase")]]),
        ('"Toys (R) Us*"', [[Term("Toys (R) Us*", "phrase")]]),
        ("star*", [[Term("star", "prefix")]]),
        ("location:boston", [[Term("boston", "word", ("location",))]]),
        ('merchant:"Online Store"', [[Term("Online Store", "phrase", ("merchant",))]]),
        ("coffee OR tea", [[Term("coffee", "word")], [Term("tea", "word")]]),
        ("a b OR c", [[Term("a", "word"), Term("b", "word")], [Term("c", "word")]]),
        ("oregon", [[Term("oregon", "word")]]),
        ("AT&T 7-Eleven O'Neill", [[Term("AT&T", "word"), Term("7-Eleven", "word"), Term("O'Neill", "word")]]),
        ("café 東京", [[Term("café", "word"), Term("東京", "word")]]),
        ("'; DROP TABLE decisions --", None),
    ],
)
def test_words_phrases_prefixes_fields_and_or(text: str, expected: list[list[Term]] | None) -> None:
    if expected is None:
        with pytest.raises(QuerySyntax):
            parse(text)
    else:
        assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "*",
        "*coffee",
        "?offee",
        "co*ee",
        "co*",
        "coff**",
        "/cof.*/",
        "coffee~",
        "coffee^2",
        "(coffee)",
        "[a TO b]",
        "{a}",
        "a\\b",
        '"new york',
        'new"york"',
        '""',
        '"..."',
        "...",
        "user_id:x",
        "transaction_id:x",
        "amount:>5",
        "_exists_:merchant",
        "location:",
        "location: boston",
        "OR",
        "coffee OR",
        "OR tea",
        "a OR OR b",
        "NOT coffee",
        "coffee AND tea",
        "a && b",
        "!coffee",
        "a\x00b",
        " OR ".join(["coffee"] * 2000),
        " ".join(["a"] * (MAX_TERMS + 1)),
        "x" * 257,
        "${jndi:ldap://x}",
    ],
)
def test_anything_else_is_outside_the_syntax(text: str) -> None:
    with pytest.raises(QuerySyntax) as caught:
        parse(text)
    assert caught.value.status == 422


@given(st.text(max_size=300))
def test_any_text_is_parsed_or_refused_by_name(text: str) -> None:
    try:
        alternatives = parse(text)
    except QuerySyntax as error:
        assert error.code == "QUERY_SYNTAX"
    else:
        assert 1 <= sum(map(len, alternatives)) <= MAX_TERMS
        assert all(set(term.fields) <= set(FIELDS) for terms in alternatives for term in terms)


@given(st.lists(st.lists(st.sampled_from(["a1", '"b c"', "def*", "location:x"]), min_size=1), min_size=1))
def test_only_structured_clauses_leave(terms: list[list[str]]) -> None:
    text = " OR ".join(" ".join(part) for part in terms)
    if len(text) > 256 or sum(map(len, terms)) > MAX_TERMS:
        return
    assert _kinds(any_of(parse(text), similar=True)) <= {"bool", "match", "match_phrase", "prefix"}


def _kinds(clause: dict[str, object]) -> set[str]:
    (kind,) = clause
    if kind != "bool":
        return {kind}
    inner = clause["bool"]
    assert isinstance(inner, dict)
    found = {"bool"}
    for name in ("must", "should"):
        for part in inner.get(name, []):
            found |= _kinds(part)
    return found


def test_a_phrase_is_no_phrase_where_the_index_has_no_positions() -> None:
    clause = matching(Term("credit card", "phrase", ("payment_method",)), similar=True)
    assert clause == {"match": {"payment_method": {"query": "credit card", "operator": "and"}}}
