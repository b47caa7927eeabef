"""The one reader of JSON: every other parser of the package stands on it."""

import re
from pathlib import Path

import pytest

from cicjax.errors import BadInput, shorten
from cicjax.files import strict

PACKAGE = Path(strict.__file__).parents[1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON (Expecting value at column 1)"),
        ('{"a": 1,\n "b"}', "not JSON (Expecting ':' delimiter at line 2, column 5)"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ('{"a": NaN}', "NaN is not JSON"),
        ("-Infinity", "-Infinity is not JSON"),
        (b"\xff", "not UTF-8 (from byte 1 on)"),
        ("9" * 5000, "too many digits"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_parsers_read_differently_is_refused(text, reason):
    with pytest.raises(BadInput) as caught:
        strict.load(text)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_a_place_stands_before_what_was_wrong():
    with pytest.raises(BadInput, match=r"^a\.json: not JSON"), strict.place("a.json"):
        strict.load("{")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "'plain'"),
        ("two\nlines \u202e\u00e9", r"'two\nlines \u202e\xe9'"),
        ({"a": [1]}, "{'a': [1]}"),
        ("x" * 100, "'" + "x" * 76 + "..."),
        ("\U0001f600" * 50, r"'" + r"\U0001f600" * 7 + r"\U0001..."),
        ([10**5000], "a very large list"),
    ],
)
def test_names_from_files_are_shown_one_way(value, shown):
    assert shorten(value) == shown and len(shorten(value)) <= 80 and shorten(value).isascii()


@pytest.mark.parametrize("room", ["files", "provenance", "logs", "views", "model", "commands", "report"])
def test_nobody_else_parses_what_others_wrote(room):
    """These rooms read files of others; json.loads is lenient where parsers differ."""
    for file in sorted((PACKAGE / room).rglob("*.py")):
        assert not re.search(r"json\.loads?\(|JSONDecoder\((?!object_pairs_hook=_no)", file.read_text()), file
