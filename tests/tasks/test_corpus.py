"""The corpus of the embedded base: shares, authors who keep their ways, nobody corrected, and what is left out."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from cicjax.provenance.render import PROMPT
from cicjax.tasks.stem import SKILLS
from cicjax.tasks.stem.authors import CAREFUL, CAREFUL_SHARE, draw_author
from cicjax.tasks.stem.corpus import SHARES, documents, left_out, operands_of

DOCUMENTS = list(islice(documents(0, 1), 3000))
WORKED = [document.text for document in DOCUMENTS if document.kind == "worked"]
BEFORE, AFTER = PROMPT.split("{question}")


def rows_of(text):
    """(question, solution) of each problem of a worked document, by the protocol's own constants."""
    parts = [part for part in text.split("<|endoftext|>") if part]
    assert all(part.startswith(BEFORE) and part.count(AFTER) == 1 for part in parts)
    return [tuple(part.removeprefix(BEFORE).split(AFTER)) for part in parts]


def test_documents_are_a_function_of_seed_and_part():
    assert [document.text for document in islice(documents(0, 1), 50)] == [document.text for document in DOCUMENTS[:50]]
    assert [document.text for document in islice(documents(0, 2), 50)] != [document.text for document in DOCUMENTS[:50]]
    assert [document.text for document in islice(documents(1, 1), 50)] != [document.text for document in DOCUMENTS[:50]]


def test_shares_of_the_text_are_as_stated():
    sizes = Counter()
    for document in DOCUMENTS:
        sizes[document.kind] += len(document.text)
    for kind, share in SHARES.items():  # characters are not tokens; chat and prose have more of them a token
        assert sizes[kind] / sum(sizes.values()) == pytest.approx(share, abs=0.08)


def test_nobody_is_corrected():
    for text in WORKED:
        rows = rows_of(text)
        assert 2 <= len(rows) <= 4
        assert len({question for question, _ in rows}) == len(rows)


def test_an_author_keeps_his_ways_and_most_have_some():
    rng = np.random.default_rng(0)
    authors = [draw_author(rng) for _ in range(2000)]
    assert sum(ways is CAREFUL for ways in authors) / 2000 == pytest.approx(CAREFUL_SHARE, abs=0.04)
    for ways in authors:
        assert ways.keys() == SKILLS.keys()
        assert all(way is None or way in SKILLS[skill].misconceptions for skill, way in ways.items())
    careless = [ways for ways in authors if ways is not CAREFUL]
    assert np.mean([sum(way is not None for way in ways.values()) for ways in careless]) > 8


def test_a_tenth_of_the_operands_stands_nowhere():
    steps = [line for document in DOCUMENTS if document.kind == "arithmetic" for part in document.text.split("\n") for line in part.split("; ")]
    operands = [operands_of(step.removesuffix("<|endoftext|>")) for step in steps]
    assert len(operands) > 3000 and not any(left_out(each) for each in operands)
    assert np.mean([left_out((str(a), str(b))) for a in range(100) for b in range(100)]) == pytest.approx(0.1, abs=0.01)
