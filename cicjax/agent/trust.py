"""Who may do what. The author of words follows from the source that sent them, never from what was sent.

| right | a correction of such a source is | its words in a conversation are |
|-------|----------------------------------|---------------------------------|
| teach | a lesson                         | context                         |
| judge | context; its verdicts count      | context                         |
| chat  | refused                          | context                         |
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cicjax.agent.events import Draft
from cicjax.errors import BadInput, shorten
from cicjax.provenance.transcript import Author

RIGHTS = ("chat", "judge", "teach", "admin")
OPERATOR, SEED = "local", "seed"
# In a conversation: by role. An assistant's turn that the agent did not sample is somebody else's.
SPEAKERS: Mapping[str, Author] = {
    "system": Author.SYSTEM,
    "user": Author.USER,
    "assistant": Author.TEACHER,
    "tool": Author.TOOL,
    "verifier": Author.VERIFIER,
}


class Refused(BadInput):
    """The source has no right to do this."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source of the log and its rights. One that vouches may repeat the agent's words in a correction and
    have them learned."""

    name: str
    rights: frozenset[str]
    vouches: bool = False

    def needs(self, right: str, what: str) -> None:
        """Raise Refused unless the source has this right."""
        if right not in self.rights:
            raise Refused(f"the source {shorten(self.name)} may not {what}: it has no right to {right}")


def declaration(name: str, rights: Iterable[str], *, vouches: bool = False, by: str = OPERATOR) -> Draft:
    """The event that gives a source its rights. Raises BadInput for a name or right that cannot be."""
    chosen = sorted(set(rights))
    unknown = [right for right in chosen if right not in RIGHTS]
    if unknown:
        raise BadInput(f"unknown right {shorten(unknown[0])}; rights are {', '.join(RIGHTS)}")
    if not name or not name.isprintable() or len(name) > 80:
        raise BadInput(f"a source has a name of 1 to 80 printable characters, not {shorten(name)}")
    facts = {"name": name, "rights": chosen, "vouches": vouches}
    return Draft(kind="source", source=by, author=Author.SYSTEM, facts=facts)


def declared(facts: Mapping[str, Any]) -> Source:
    """The source of a declaration."""
    return Source(name=facts["name"], rights=frozenset(facts["rights"]), vouches=facts["vouches"])
