#!/usr/bin/env python
"""Can one correction be seen? An agent's wrong answers are corrected one at a time, each in a step of its
own, and the same question is asked again.

    cicjax repro --methods base sft --learning_rate 3.2e-3 --output_dir RUN
    scripts/one_correction.py --adapter RUN/sft --json FILE             on the embedded base
    scripts/one_correction.py --adapter RUN/sft --model DIR --json FILE

Every step begins with the adapter as it was given and takes four rows of the teacher's along. The control,
`replay_only`, is the same step on those rows alone: what it rights, no correction did.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cicjax.devices import process

if __name__ == "__main__":
    process.prepare()  # before jax is imported, as the command line does

from cicjax.agent import replay
from cicjax.agent.continual import Agent
from cicjax.agent.events import Correction
from cicjax.agent.home import Home
from cicjax.agent.lessons import Lessons
from cicjax.agent.settings import AgentSettings
from cicjax.agent.versions import Version
from cicjax.files.whole import write_json
from cicjax.methods.rows import demonstration
from cicjax.sampling.draw import row_keys
from cicjax.sampling.sampler import Sampler
from cicjax.tasks.named import EMBEDDED, named
from cicjax.tasks.task import Problem, Task
from cicjax.training.steps import Optimization

TEACHER, CONTEXTS = "teacher", ("none", "both", "attempt")


def make(home: Path, args: argparse.Namespace, contexts: Any, taught: Sequence[Problem]) -> Agent:
    """An agent on the adapter, with the teacher's rows to replay."""
    optimization = Optimization(learning_rate=args.learning_rate, warmup_steps=0)
    settings = AgentSettings(contexts=contexts, max_new_tokens=args.max_tokens, optimization=optimization)
    Home.make(home, model=args.model, settings=settings, adapter=args.adapter)
    agent = Agent.open(home)
    for each in taught:
        row = demonstration(each.id, question_text=each.question, solution=each.solution)
        agent.demonstrate(row, source=TEACHER, replay=True)
    return agent


def wrong_of(agent: Agent, task: Task, problems: Sequence[Problem], count: int) -> list[Problem]:
    """The first so many problems that the agent answers wrong."""
    wrong: list[Problem] = []
    for first in range(0, len(problems), 50):
        asked = problems[first : first + 50]
        answers = agent.act_all([each.question for each in asked])
        wrong += [p for p, a in zip(asked, answers, strict=True) if not task.verify(p, a.text).solved]
        if len(wrong) >= count:
            break
    return wrong[:count]


def corrected(agent: Agent, task: Task, wrong: Sequence[Problem]) -> int:
    """How many are right when asked again, each after the step on its own correction."""
    right = 0
    attempts = agent.act_all([each.question for each in wrong])
    for problem, attempt in zip(wrong, attempts, strict=True):
        agent.observe(attempt.id, Correction(problem.solution))
        agent.learn()
        right += task.verify(problem, agent.act(problem.question).text).solved
        agent.serve(0)
    return right


def replayed(agent: Agent, task: Task, wrong: Sequence[Problem], folder: Path) -> int:
    """How many are right after the same step without any correction."""
    settings, policy, states = agent.settings, agent.policy, agent.steps.states
    lessons = Lessons(agent.store, policy.tokenizer, settings)
    drawn = replay.draw(settings.seed, 1, list(agent.history.seeds), [], (settings.replay_seed, 0))
    teacher = agent.history.sources[TEACHER]
    rows = [row for number in drawn for row in lessons.rows(agent.store.event(number), teacher)]
    version = Version(number=1, parent=0, depth=1)
    state = replace(states, folder=folder).step(version, "", states.load(0), rows)
    begun = [agent.begin(each.question, decoding=agent.decoding()) for each in wrong]
    keys = row_keys(settings.seed, "again", [each.seed for each in begun], [0] * len(begun))
    answers = Sampler(policy.model, policy.base, state.adapter).sample(
        [each.prompt for each in begun], keys, agent.decoding(), decode=policy.tokenizer.decode
    )
    texts = [policy.tokenizer.decode(each.tokens, skip_controls=True) for each in answers]
    return sum(bool(task.verify(p, text).solved) for p, text in zip(wrong, texts, strict=True))


def main() -> None:
    """Correct, ask again, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--adapter", type=Path, required=True, help="where `cicjax` left SFT-1")
    parser.add_argument("--model", help="the base, if not the embedded one")
    parser.add_argument("--json", type=Path, help="the counts go here too")
    parser.add_argument("--seed", type=int, default=0, help="of the problems: the adapter's")
    parser.add_argument("--corrections", type=int, default=50)
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--max_tokens", type=int, default=96)
    args = parser.parse_args()
    task = named("stem", numbers=EMBEDDED if args.model is None else "paper")
    splits = task.splits(args.seed, sft=200, agent=400, dev=0, test=0)
    right, wrong = dict[str, int](), list[Problem]()
    with tempfile.TemporaryDirectory() as folder:
        for contexts in CONTEXTS:
            with make(Path(folder, contexts), args, contexts, splits.sft) as agent:
                if not wrong:
                    wrong = wrong_of(agent, task, splits.agent, args.corrections)
                    right["replay_only"] = replayed(agent, task, wrong, Path(folder, "control"))
                right[contexts] = corrected(agent, task, wrong)
    found = {"corrections": len(wrong), "learning_rate": args.learning_rate, "right_again": right}
    print(json.dumps(found))
    if args.json:
        write_json(args.json, found)


if __name__ == "__main__":
    main()
