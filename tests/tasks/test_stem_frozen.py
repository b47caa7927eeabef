"""The generator is frozen: difficulty was set on the development splits of seeds 1000-1002
(checkpoints/results/difficulty.json).

Problems that change make every committed result a result about something else, so this file pins their
digest. It is no golden file of behaviour: a deliberate change needs a new calibration and new results, and
then a new digest here.
"""

import hashlib
import json

from cicjax.tasks import stem

DIGEST = "f1af64f29c1162bd5b4d6a1bcd6958dca7d767e1603977df21fe4aaa61c177fc"


def test_the_problems_of_the_paper_numbers_are_those_that_were_calibrated():
    digest = hashlib.sha256()
    for seed in (0, 1, 1000):
        splits = stem.make_splits(seed=seed, sft=200, agent=200, dev=200, test=1000)
        for problem in (*splits.sft, *splits.agent, *splits.dev, *splits.test):
            facts = [
                problem.question,
                problem.solution,
                problem.unit,
                problem.rel_tol,
                problem.abs_tol,
                problem.skill,
            ]
            digest.update(json.dumps([*facts, f"{problem.answer:.12g}"]).encode())
    assert digest.hexdigest() == DIGEST
