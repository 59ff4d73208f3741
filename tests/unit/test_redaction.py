import pytest

from feature_repo.redaction import holds_card_number, redact

CARD = "4111 1111 1111 1111"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ('{"a": "4111 1111 1111 1111"}', '{"a": "**** **** **** ****"}'),
        ('{"a": 4111111111111111}', '{"a": ****************}'),
        ("4111-1111-1111-1111", "****-****-****-****"),
        ("24 4111 1111 1111 1111 7", "24 **** **** **** **** 7"),
        (r'{"a": "\u0034111111111111111"}', r'{"a": "*********************"}'),
        (r'{"a": "\u00e94111111111111111"}', r'{"a": "\u00e9****************"}'),
        (r'{"a": "x\n4111111111111111"}', r'{"a": "x\n****************"}'),
        ("４１１１１１１１１１１１１１１１", "*" * 48),
        ('{"cvv": "123"}', '{"cvv": "***"}'),
        ('{"CVC2":123,"a":4}', '{"CVC2":***,"a":4}'),
        (r'{"\u0063vv": "123"}', r'{"\u0063vv": "***"}'),
        ('{"card_security_code": "12\\"3"}', '{"card_security_code": "***"*"}'),
        ('{"cvv": {"value": [1, 2]}, "a": 3}', '{"cvv": {"*****": [*, *]}, "*": *}'),
        ("{'cvv': '123', 'a': '4'}", "{'cvv': '***', 'a': '4'}"),
        ("cvv=123&a=4", "cvv=***&*=*"),
        ('{"cvv": "123', '{"cvv": "***'),
        ('{"receive": "123"}', '{"receive": "123"}'),
        ('{"a": "4111 1111 1111 1112"}', '{"a": "4111 1111 1111 1112"}'),
        ('{"a": "2023-07-15T14:22:35Z", "b": 1500.00}', '{"a": "2023-07-15T14:22:35Z", "b": 1500.00}'),
        (r'{"a": "\\u00004111 1111 1111 1111"}', r'{"a": "\\u00004111 1111 1111 1111"}'),
        ("", ""),
    ],
)
def test_card_data_becomes_asterisks_and_the_rest_stays(said: str, kept: str) -> None:
    assert redact(said.encode()) == kept.encode()


def test_bytes_that_are_not_utf8_stay_around_what_is_masked() -> None:
    assert redact(b"\xff\xfe4111111111111111\x80\\") == b"\xff\xfe" + b"*" * 16 + b"\x80\\"


def test_card_number_in_utf16_is_masked() -> None:
    assert b"4\x001\x001" not in redact(f'{{"a": "{CARD}"}}'.encode("utf-16"))


def test_redacting_twice_changes_nothing_more() -> None:
    once = redact(f'{{"a": "{CARD}", "cvv": 123}}'.encode())
    assert redact(once) == once


def test_card_number_needs_13_to_19_digits_in_whole_groups() -> None:
    assert holds_card_number("4222222222222") and holds_card_number("6304000000000000000")
    assert not holds_card_number("422222222222")
    assert not holds_card_number("63040000000000000000")
    assert not holds_card_number("241111111111111111")


def test_characters_of_no_width_do_not_hide_a_card_number() -> None:
    assert holds_card_number("\u200b".join(CARD))
