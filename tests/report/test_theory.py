"""The theory page: what it draws is what the formulas give, and the bars add up."""

import re

import numpy as np
import pytest

from cicjax.objectives import bayes
from cicjax.report import theory
from cicjax.tasks.boxes import world


def test_beliefs_along_the_history_by_hand():
    done, seen = theory.beliefs(intervened=True), theory.beliefs(intervened=False)
    assert len(done) == len(seen) == len(theory.slots()) == 7
    assert done[0] == done[1] == 0.5 and seen[1] == pytest.approx(0.95)
    assert done[2] == pytest.approx(0.1) and done[3] == pytest.approx(0.1)
    assert seen[2] == pytest.approx(0.95 * 0.1 / (0.95 * 0.1 + 0.05 * 0.9))
    belief = world.PRIOR
    for (action, outcome), after in zip(theory.HISTORY, seen[2::2], strict=True):
        belief = bayes.after(belief, world.KNOWS, world.SHOWS, action, outcome, intervened=False)
        assert belief[0] == pytest.approx(after)


@pytest.mark.parametrize("corrections", [theory.SWAYED, theory.ORACLE])
def test_the_lemma_adds_up_in_both_units(corrections):
    whole = theory.joint(corrections)
    assert whole.sum() == pytest.approx(1)
    found = bayes.prediction_lemma(whole, [0.0, 1.0])
    coarse, rich = theory.entropies(corrections)
    assert found.coarse_error == pytest.approx(found.rich_error + found.gap)
    assert coarse == pytest.approx(rich + found.log_loss_gap)
    exact = corrections is theory.ORACLE
    assert (found.gap == 0 and found.log_loss_gap == pytest.approx(0)) == exact
    assert np.isclose(coarse, 0) == exact


def test_figures_and_words_come_from_the_numbers_and_are_the_same_bytes_again():
    first = theory.drawings()
    assert [drawing.svg for drawing in first] == [theory.posteriors().svg, theory.lemma().svg]
    assert "Nothing" not in first[0].alt and "nothing: 0.100 and 0.679" in first[0].alt
    assert "the paper's oracle, nats: 0.000 with the attempt, 0.000 more without" in first[1].alt
    name, _, children = theory.section([])
    page = "".join(map(str, children))
    assert name == "theory" and "0.679" in page and "Why equality for the paper" in page
    for teacher, unit, rich, gap in theory.errors():
        (line,) = [row for row in page.split("<tr>") if teacher[:12] in row and unit in row]
        assert re.findall(r"\d\.\d{3}", line) == [f"{each:.3f}" for each in (rich, gap, rich + gap)]


def test_the_world_on_the_page_is_the_one_that_is_computed():
    rows = np.array(theory._world(), float).reshape(2, 2, 6)
    corrections = np.stack([1 - rows[..., 4], rows[..., 4]], axis=-1)
    whole = rows[..., 1, None] * rows[..., 3, None] * corrections
    np.testing.assert_allclose(whole, theory.joint(theory.SWAYED))
    assert (rows[..., 5] == theory.ORACLE[..., 1]).all()
