"""The rows of the arms: what becomes of the stream, and of the teacher's rows, in each control.

All are functions of an experiment's rollouts and nothing else; none draws a random number. `meta` of a
stream's row names its problem and its skill.
"""

from collections.abc import Sequence
from dataclasses import replace

from cicjax.methods.method import Rollouts
from cicjax.methods.rows import verdict
from cicjax.provenance.transcript import Episode, Message


def repeated(episodes: Sequence[Episode], count: int) -> list[Episode]:
    """`count` rows: the episodes over and over, each time under another id."""
    times = [divmod(n, len(episodes)) for n in range(count)] if episodes else []
    return [replace(episodes[place], id=f"{episodes[place].id}~{time}") for time, place in times]


def teacher_again(rollouts: Rollouts) -> list[Episode]:
    """The teacher's rows again, as many of them as the stream has rows."""
    return repeated(rollouts.teacher(), len(rollouts.stream()))


def with_replay(rollouts: Rollouts) -> list[Episode]:
    """The stream, and the teacher's rows once more among it."""
    return [*rollouts.stream(), *rollouts.teacher()]


def shuffled(rollouts: Rollouts) -> list[Episode]:
    """The stream with every failed attempt replaced by a failed one at another question of the same skill, or
    of any skill where that has none; a correction without another question's attempt to stand after stays as
    it is."""
    stream = rollouts.stream()
    attempts = others_attempts([episode for episode in stream if failed(episode)])
    following = iter(attempts)
    return [with_attempt(episode, next(following)) if failed(episode) else episode for episode in stream]


def others_attempts(episodes: Sequence[Episode]) -> list[Message]:
    """For each failed row the attempt of another question, of the same skill where there is one: those of a
    skill are dealt out in turn, so that one question's rows do not all get the same."""
    dealt = []
    for n, episode in enumerate(episodes):
        strangers = [other for other in episodes if _fact(other, "problem") != _fact(episode, "problem")]
        akin = [other for other in strangers if _fact(other, "skill") == _fact(episode, "skill")]
        from_whom = akin or strangers or [episode]
        dealt.append(from_whom[n % len(from_whom)].messages[1])
    return dealt


def judged(rollouts: Rollouts) -> list[Episode]:
    """The stream with the verdict told after every attempt, a right one too: v of equation (14)."""
    return [told(episode) for episode in rollouts.stream()]


def told(episode: Episode) -> Episode:
    """A row with the verdict after its attempt."""
    question, attempt, *correction = episode.messages
    return replace(episode, messages=(question, attempt, verdict(attempt.solved), *correction))


def repaired_by_itself(rollouts: Rollouts) -> list[Episode]:
    """Failed attempts followed by a sample of the same group that passed, in place of the oracle's words.

    The passing samples are dealt out in turn; where a group has none, the attempt stands alone. First
    attempts are context, right ones too: what is learned is the second answer.
    """
    stream = rollouts.stream()
    passing: dict[object, list[Message]] = {}
    for episode in stream:
        if not failed(episode):
            passing.setdefault(_fact(episode, "problem"), []).append(episode.messages[1])
    rows = []
    for n, episode in enumerate(stream):
        question, attempt = episode.messages[:2]
        group = passing.get(_fact(episode, "problem"), []) if failed(episode) else []
        second = (group[n % len(group)],) if group else ()
        first = replace(attempt, context_only=True)
        rows.append(replace(episode, messages=(question, first, *second)))
    return rows


def deduplicated(rollouts: Rollouts) -> list[Episode]:
    """One failed attempt and its correction a question, over and over: as many corrections as the stream has,
    after as few attempts as it has questions."""
    failures = [episode for episode in rollouts.stream() if failed(episode)]
    first: dict[object, Episode] = {}
    for episode in failures:
        first.setdefault(_fact(episode, "problem"), episode)
    return repeated(list(first.values()), len(failures))


def failed(episode: Episode) -> bool:
    """Whether the attempt of a stream's row was judged wrong."""
    return episode.messages[1].solved == 0


def with_attempt(episode: Episode, attempt: Message) -> Episode:
    """A row with another attempt in the place of its own."""
    question, _, *correction = episode.messages
    return replace(episode, messages=(question, attempt, *correction))


def _fact(episode: Episode, name: str) -> object:
    return (episode.meta or {}).get(name)
