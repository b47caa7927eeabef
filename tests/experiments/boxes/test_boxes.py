"""Boxes: the truth by enumeration, a table that learns the rows of an arm exactly, a run on a toy."""

import json
from collections import defaultdict
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import tiny_qwen2

from cicjax.experiments.boxes import beliefs, repro
from cicjax.experiments.boxes.settings import ARMS
from cicjax.experiments.paper.flags import Flags
from cicjax.provenance import Author, encode, render
from cicjax.tasks.boxes import world


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("boxes") / "model"
    tiny_qwen2.write(path, seed=9, num_hidden_layers=1, max_position_embeddings=1024)
    return path


def exact_rows(acts):
    """Every history with its probability where somebody opens boxes by P(a | place)."""
    for place, history in product((0, 1), world.histories(world.ROUNDS)):
        steps = (acts[place, a] * world.SHOWS[place, a, o] for a, o in history)
        yield history, world.PRIOR[place] * np.prod(list(steps))


# The arms whose rows are whole games; `own_taught` has advice in rows of its own.
GAMES = ("expert_all", "expert_masked", "own_all", "own_masked")


def tokens_of(history, tokenizer, *, author=Author.AGENT, context_only=False):
    said = world.messages(history, author=author, context_only=context_only)
    return encode(render.chat(said, targets=render.WORLD), tokenizer)


@cache
def counted(name, folder):
    """The maximum-likelihood table of a language model on all rows of an arm, P(token | every token before
    it): what its weights let it count, and how likely the row is."""
    (arm,) = [arm for arm in ARMS if arm.name == name]
    action = arm.rows(0, 1)[0].messages[1]
    acts = world.KNOWS if action.author is Author.TEACHER else world.IGNORANT
    counts = defaultdict(lambda: defaultdict(float))
    for history, probability in exact_rows(acts):
        row = tokens_of(history, folder, author=action.author, context_only=action.context_only)
        tokens, weights = row.tokens.tolist(), arm.weighting(row)
        for t in np.flatnonzero(weights):
            counts[tuple(tokens[:t])][tokens[t]] += probability * float(weights[t])
    return counts


def parted(one, other):
    """The tokens that two rows share, and their first ones that differ."""
    n = next(n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return tuple(one[:n]), one[n], other[n]


def table(name, folder):
    """P(prize | history, action) in the arm's table."""
    found = {}
    for history, action in product(beliefs.EVERY, (0, 1)):
        rows = [tokens_of((*history, (action, o)), folder).tokens.tolist() for o in (0, 1)]
        before, nothing, prize = parted(*rows)
        cell = counted(name, folder)[before]
        assert set(cell) == {nothing, prize}
        found[history, action] = cell[prize] / sum(cell.values())
    return found


@pytest.mark.parametrize("name", GAMES)
def test_a_table_learns_conditioning_from_the_expert_and_do_from_own_acts(name, folder):
    """Whether actions bear loss or not: what the records were made by decides, and no mask undoes it."""
    intervened = name.startswith("own")
    for (history, action), prize in table(name, str(folder)).items():
        assert prize == pytest.approx(beliefs.truth(history, action, intervened=intervened), abs=1e-6)
    rows = [tokens_of(((action, 0),), str(folder)).tokens.tolist() for action in (0, 1)]
    before, a, b = parted(*rows)
    cell = counted(name, str(folder)).get(before, {})
    assert dict(cell) == ({} if name.endswith("masked") else pytest.approx({a: 1 / 2, b: 1 / 2}))


def test_the_expert_s_record_deludes_and_own_acts_do_not(folder):
    assert beliefs.truth((), 0) == pytest.approx(0.5)
    assert beliefs.truth((), 0, intervened=False) == pytest.approx(0.95 * 0.9 + 0.05 * 0.1)
    coin = dict.fromkeys(beliefs.EVERY, 0.5)
    described = beliefs.described(beliefs.Stated(table("own_masked", str(folder)), coin))
    assert described["error"] == pytest.approx([0, 0, 0], abs=1e-12)
    assert described["prizes"] == pytest.approx([0.5, 0.5, 0.5])
    deluded = beliefs.described(beliefs.Stated(table("expert_masked", str(folder)), coin))
    assert deluded["error_conditional"] == pytest.approx([0, 0, 0], abs=1e-12) and deluded["error"][0] > 0.3


def test_chances_add_up_and_rows_are_drawn_by_them():
    for rounds in range(world.ROUNDS + 1):
        assert sum(beliefs.chance(each, None) for each in world.histories(rounds)) == pytest.approx(1)
    rng = np.random.default_rng(0)
    for acts in (world.KNOWS, world.IGNORANT):
        drawn = [world.draw(rng, acts) for _ in range(4000)]
        right = np.mean([history[0][0] == place for place, history in drawn])
        prize = np.mean([history[0][1] for _, history in drawn])
        assert right == pytest.approx(acts[0, 0], abs=0.03)
        assert prize == pytest.approx(0.1 + 0.8 * acts[0, 0], abs=0.03)


def weighed(arm, folder):
    """Whose words bear loss in each row."""
    for episode in arm.rows(0, 4):
        arrays = encode(render.chat(episode.messages, targets=render.WORLD), str(folder))
        weights = arm.weighting(arrays)
        yield {Author(int(author)) for author in np.unique(arrays.author[weights != 0])}


def test_whose_words_each_arm_learns(folder):
    found = {arm.name: list(weighed(arm, folder)) for arm in ARMS}
    world_only, expert, agent = {Author.ENVIRONMENT}, {Author.TEACHER}, {Author.AGENT}
    assert all(each == world_only | expert for each in found["expert_all"])
    assert all(each == world_only for each in found["expert_masked"] + found["own_masked"])
    assert all(each == world_only | agent for each in found["own_all"])
    assert len(found["own_taught"]) == 4 * (1 + world.ROUNDS)
    assert [each for each in found["own_taught"] if Author.TEACHER in each] == [world_only | expert] * 12


def test_the_own_arms_read_the_same_rounds():
    plain, taught = world.own(5, 6), world.taught(5, 6)
    assert [each.messages for each in plain] == [each.messages for each in taught[:: 1 + world.ROUNDS]]


def test_the_experiment_on_a_toy(folder, tmp_path):
    flags = Flags(
        output_dir=tmp_path / "run", model_name_or_path=str(folder), experiment="boxes", scale="smoke",
        learning_rate=1e-2, lora_r=2,
    )  # fmt: skip
    few = repro.reproduce(replace(flags, arms=("own_taught",)))
    assert list(few["arms"]) == ["base", "own_taught"]
    found = repro.reproduce(flags)
    assert few == found | {"arms": {name: found["arms"][name] for name in few["arms"]}}
    assert list(found) == ["experiment", "model", "seed", "settings", "arms", "bayes"]
    assert list(found["arms"]) == ["base", *(arm.name for arm in ARMS)]
    for row in found["arms"].values():
        assert [*row] == ["stated", "error", "error_conditional", "prizes"]
        assert all(
            len(column) == world.ROUNDS and 0 <= min(column) <= max(column) <= 1 for column in row.values()
        )
    assert found["bayes"]["do"] == pytest.approx([0.5] * 3) and found["bayes"]["conditional"][0] > 0.8
    assert json.loads((flags.output_dir / "results.json").read_text()) == found == repro.reproduce(flags)
