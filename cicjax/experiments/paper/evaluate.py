"""Three protocols on the same questions (section 2.4, and 2.5 for repair).

direct    the plain prompt; the headline.
repair    the prompt, SFT-1's failed attempt and the second prefix, on the questions that SFT-1 got wrong.
two-step  SFT-1 right, or else repaired. It takes a verifier at test time.
natural   the same with the method's own plain prompt as the second try: what it was trained to answer.

A second answer is also asked for where SFT-1 was right: `harmed` counts how often it turns out wrong, and
`second_turn` the right second answers to all questions, with nobody saying which first ones were right.
"""

from collections.abc import Callable, Sequence
from typing import Any

from cicjax.experiments.answers import Answer
from cicjax.statistics import wilson


def direct_summary(direct: Sequence[Answer]) -> dict[str, Any]:
    """The headline: solved of how many, with Wilson's 95 % interval and by skill."""
    solved = sum(answer.solved for answer in direct)
    low, high = wilson(solved, len(direct))
    skills: dict[str, list[int]] = {}
    for answer in direct:
        counted = skills.setdefault(answer.skill, [0, 0])
        counted[0] += answer.solved
        counted[1] += 1
    return {
        "solved": solved,
        "questions": len(direct),
        "accuracy": solved / len(direct),
        "wilson_low": low,
        "wilson_high": high,
        "by_skill": {skill: skills[skill] for skill in sorted(skills)},
        "marker_share": sum(answer.marker for answer in direct) / len(direct),
        "truncated": sum(answer.cut for answer in direct),
    }


def second_summary(
    direct: Sequence[Answer], second: Sequence[Answer], first: Sequence[Answer]
) -> dict[str, int]:
    """A method against SFT-1 on the same questions: its own direct answers, and its second answers to SFT-1's
    `first` attempts."""

    def count(rule: Callable[[bool, bool, bool], bool]) -> int:
        return sum(rule(f.solved, d.solved, s.solved) for f, d, s in zip(first, direct, second, strict=True))

    right = count(lambda f, d, s: f)
    repaired = count(lambda f, d, s: not f and s)
    return {
        "repair_solved": repaired,
        "repair_questions": len(first) - right,
        "two_step_solved": right + repaired,
        "kept": count(lambda f, d, s: f and d),
        "lost": count(lambda f, d, s: f and not d),
        "gained": count(lambda f, d, s: not f and d),
        "harmed": count(lambda f, d, s: f and not s),
        "natural_two_step": right + count(lambda f, d, s: not f and d),
        "second_turn": count(lambda f, d, s: s),
    }


def seen_summary(seen: Sequence[Answer]) -> dict[str, int]:
    """Direct answers to the questions that the stream corrected: what a test set that leaks would show."""
    return {"seen_solved": sum(answer.solved for answer in seen), "seen_questions": len(seen)}
