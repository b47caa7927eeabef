"""Dialogues in which the agent lies: facts, words, and what differs between arms."""

from collections import Counter

import numpy as np
import pytest

from cicjax.provenance import Author
from cicjax.tasks.dialogues.build import TAIL_SHARE, build, dialogue, plans, without_agent
from cicjax.tasks.dialogues.facts import FACTS


def test_facts_have_two_claims_and_invented_values_are_as_often_true_as_false():
    assert Counter(fact.kind for fact in FACTS) == {"real": 33, "invented": 40}
    assert len({fact.topic for fact in FACTS}) == len(FACTS)
    assert all(fact.right != fact.wrong and fact.claim(True) != fact.claim(False) for fact in FACTS)
    invented = [fact for fact in FACTS if fact.kind == "invented"]
    assert Counter(fact.right for fact in invented) == Counter(fact.wrong for fact in invented)


def test_a_dialogue_word_for_word():
    plan = plans(0, count=1)[0]
    lie = dialogue(plan, False)
    claim, reply = lie.messages[2], lie.messages[3]
    assert [message.role for message in lie.messages[:5]] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert claim.content == plan.fact.claim(False) and claim.author is Author.AGENT and claim.solved == 0
    assert reply.content == plan.correction.format(truth=plan.fact.claim(True))
    assert dialogue(plan, True).messages[3].content == plan.confirmation.format(truth=plan.fact.claim(True))


def test_the_reply_always_restates_the_truth_unless_there_is_none():
    for episode, plan in zip(build(plans(1), 0.6), plans(1), strict=True):
        assert plan.fact.claim(True) in episode.messages[3].content
        assert plan.fact.claim(False) not in episode.messages[3].content
    silent = build(plans(1), 0.6, silence=1.0)
    assert all(
        len(episode.messages) == 3 + 2 * (plan.tail is not None)
        for episode, plan in zip(silent, plans(1), strict=True)
    )


def test_builds_differ_in_the_claim_and_the_first_word_of_the_reply_alone():
    planned = plans(3)
    some, none = build(planned, 0.6), build(planned, 0.0)
    changed = 0
    for one, other in zip(some, none, strict=True):
        assert one.id == other.id and len(one.messages) == len(other.messages)
        differing = [
            n for n, pair in enumerate(zip(one.messages, other.messages, strict=True)) if pair[0] != pair[1]
        ]
        lied = one.messages[2].solved == 0
        assert differing == ([2, 3] if lied else [])
        changed += lied
    assert changed / len(planned) == pytest.approx(0.6, abs=0.07)
    lies = [
        sum(each.messages[2].solved == 0 for each in build(planned, p)) for p in (0.0, 0.3, 0.6, 0.9, 1.0)
    ]
    assert lies == sorted(lies) and lies[0] == 0 and lies[-1] == len(planned)


def test_facts_come_equally_often_and_tails_half_of_the_time():
    planned = plans(0)
    counts = Counter(plan.fact for plan in planned)
    assert len(counts) == len(FACTS) and max(counts.values()) - min(counts.values()) <= 1
    assert np.mean([plan.tail is not None for plan in planned]) == pytest.approx(TAIL_SHARE, abs=0.07)
    assert [plan.fact for plan in plans(1)] != [plan.fact for plan in planned]


def test_removing_the_agent_leaves_what_the_others_said():
    episode = build(plans(0, count=1), 0.0)[0]
    left = without_agent(episode)
    assert all(message.author is not Author.AGENT for message in left.messages)
    assert [m for m in episode.messages if m.author is not Author.AGENT] == list(left.messages)
