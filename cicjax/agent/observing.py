"""What the world answers, and whether it is a lesson.

A correction is one where its source may teach and it says something that is neither the attempt itself nor a
lesson already. A verdict counts in the curves and makes no target; a remark and what a tool says are context.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cicjax.agent.acting import turn_key
from cicjax.agent.events import Correction, Demonstration, Draft, Event, Observation, Verdict, digest_of
from cicjax.agent.lessons import Lessons, read_messages
from cicjax.agent.settings import AgentSettings
from cicjax.agent.store import Store
from cicjax.agent.trust import SPEAKERS, Source
from cicjax.agent.versions import History
from cicjax.errors import BadInput
from cicjax.logs import native
from cicjax.provenance.transcript import Author, Episode, Message
from cicjax.training.batches import Row

Said = Correction | Verdict | Demonstration | Observation
Check = Callable[[Sequence[str], str], bool]


@dataclass(frozen=True, kw_only=True)
class Observations:
    """Turns what a source says into drafts. `check(questions, answer)`, where there is one, is the task's
    verifier: a correction that fails it is kept and not learned."""

    store: Store
    history: History
    lessons: Lessons
    settings: AgentSettings
    check: Check | None = None

    def draft(self, about: Event | None, said: Said, source: Source, idempotency: str | None) -> Any:
        """What is to be appended: a draft, or what gives one in the transaction. Raises Refused where the
        source may not say this, BadInput where it speaks of nothing."""
        if isinstance(said, Demonstration):
            return self._demonstration(said, source, idempotency)
        if about is None:
            raise BadInput("an observation is about an answer: give the receipt that it came with (`id`)")
        source.needs("judge" if "judge" in source.rights else "teach", "say anything about an answer")
        if isinstance(said, Correction):
            return self._correction(about, said, source, idempotency)
        if isinstance(said, Verdict):
            return Draft(
                kind="verdict",
                source=source.name,
                author=Author.VERIFIER,
                parent=about.seq,
                solved=int(said.solved),
                reason="a verdict is no target",
                idempotency=idempotency,
            )
        return Draft(
            kind="observation",
            source=source.name,
            author=Author.TOOL,
            parent=about.seq,
            role="tool",
            content={"text": said.text},
            reason="what a tool says is context",
            idempotency=idempotency,
        )

    def _correction(self, begin: Event, said: Correction, source: Source, idempotency: str | None) -> Any:
        if not said.text.strip():
            raise BadInput("an empty correction: write the whole answer that it should have been")
        if said.scope not in ("answer", "reply"):
            raise BadInput(f"the scope of a correction is answer or reply, not {said.scope!r}")
        key = digest_of(["lesson", begin.facts["turn"], said.text])

        def judged(store: Store, before: Sequence[Event]) -> Draft:
            """The event, a lesson or not, decided where no other writer comes between."""
            reason = self._why_not(begin, said, source, key)
            attempt = self.lessons.turns.attempt_of(begin)
            return Draft(
                kind="correction" if said.scope == "answer" else "reply",
                source=source.name,
                author=Author.TEACHER,
                parent=begin.seq,
                role="assistant",
                content={"text": said.text},
                key=key,
                teaches=not reason,
                reason=reason or ("" if attempt else "the attempt was cut short: learned as a demonstration"),
                facts={"turn": begin.facts["turn"], "asked_by": begin.source},
                idempotency=idempotency,
            )

        return judged

    def _why_not(self, begin: Event, said: Correction, source: Source, key: str) -> str:
        """Why a correction is no lesson; "" where it is one."""
        if said.scope == "reply":
            return "a remark is no answer"
        if "teach" not in source.rights:
            return f"{source.name} may not teach"
        if (number := self._taught(key)) is not None:
            return f"taught already as lesson {number}"
        attempt = self.lessons.turns.attempt_of(begin)
        if attempt is not None and _same(self.store.content(attempt)["text"], said.text):
            return "it repeats the attempt"
        questions = [message.content for message in self.lessons.turns.seen(begin)]
        if self.check is not None and not self.check(questions, said.text):
            return "it fails the verifier"
        return self._unfit(self.lessons.corrected(begin, attempt, said.text, source), said.text)

    def _unfit(self, rows: Sequence[Row], text: str) -> str:
        """Why rows cannot be learned: too long, or nothing of their own in them."""
        settings = self.settings
        if (count := self.lessons.count(text)) > settings.lesson_tokens:
            return f"{count} tokens, and a lesson has {settings.lesson_tokens} at most"
        if (longest := max(len(row.loss_weights) for row in rows)) > settings.max_row_tokens:
            return f"a row of {longest} tokens, and it may have {settings.max_row_tokens}"
        if not any(row.loss_weights.any() for row in rows):
            return "nothing in it that the agent has not written itself"
        return ""

    def _taught(self, key: str) -> int | None:
        lessons = (each for each in self.store.by_key(key) if each.source not in self.history.excluded)
        return next((each.lesson for each in lessons if each.lesson is not None), None)

    def _demonstration(self, said: Demonstration, source: Source, idempotency: str | None) -> Any:
        messages = [
            Message(
                role=each["role"],
                content=each["text"],
                author=SPEAKERS[each["role"]],
                context_only=True,
            )
            for each in read_messages(said.messages)
        ]
        answer = Message(role="assistant", content=said.answer, author=Author.TEACHER)
        return self.episode(
            Episode(id="demonstration", messages=(*messages, answer)), source, idempotency=idempotency
        )

    def episode(
        self, episode: Episode, source: Source, *, replay: bool = False, idempotency: str | None = None
    ) -> Any:
        """A transcript to learn from, or with `replay` one to go along with lessons. Authors are those that
        the
        transcript says: whoever imports it answers for them."""
        source.needs("teach", "give demonstrations")
        record = native.record_of(episode)
        key, turn = digest_of(["lesson", record["messages"]]), ""
        for message in episode.messages[:-1]:
            turn = turn_key(turn, message.role, message.content)
        if not self.lessons.demonstrated(episode).loss_weights.any():
            raise BadInput(
                f"{episode.id}: nothing in it is a target; a demonstration ends in a teacher's turn"
            )

        def judged(store: Store, before: Sequence[Event]) -> Draft:
            """The event, a lesson or not, decided where no other writer comes between."""
            number = None if replay else self._taught(key)
            reason = (
                "replayed with lessons"
                if replay
                else (
                    f"taught already as lesson {number}"
                    if number is not None
                    else self._unfit([self.lessons.demonstrated(episode)], episode.messages[-1].content)
                )
            )
            return Draft(
                kind="demonstration",
                source=source.name,
                author=Author.TEACHER,
                role="assistant",
                content=record,
                key="" if replay else key,
                teaches=not reason,
                reason=reason,
                facts={"replay": replay, "turn": turn},
                idempotency=idempotency,
            )

        return judged


def _same(one: str, other: str) -> bool:
    return unicodedata.normalize("NFKC", one).split() == unicodedata.normalize("NFKC", other).split()
