"""The two stream rows that section 2.2 of the paper prints: an attempt that passes, and one that fails and is
corrected."""

from cicjax.provenance.transcript import Author, Episode, Message

_QUESTION = (
    "{mass} g of solute (molar mass {molar} g/mol) "
    "is dissolved to make {volume} L of solution. What is the molarity?"
)
_SOLUTION = "n = {mass}/{molar} = {moles} mol; M = n/V = {answer} M. Final answer: {answer} M."


def _question(mass: str, molar: str, volume: str) -> Message:
    return Message(
        role="user", author=Author.USER, content=_QUESTION.format(mass=mass, molar=molar, volume=volume)
    )


def _solution(author: Author, solved: int, mass: str, molar: str, moles: str, answer: str) -> Message:
    content = _SOLUTION.format(mass=mass, molar=molar, moles=moles, answer=answer)
    return Message(role="assistant", author=author, content=content, solved=solved)


EPISODES = (
    Episode(
        id="first attempt correct",
        source="demo",
        protocol="plain",
        messages=(
            _question("12.5", "98.0", "1.0"),
            _solution(Author.AGENT, 1, "12.5", "98.0", "0.125", "0.125"),
        ),
    ),
    Episode(
        id="first attempt wrong, then corrected",
        source="demo",
        protocol="plain",
        messages=(
            _question("10.0", "40.0", "0.25"),
            _solution(Author.AGENT, 0, "10.0", "40.0", "0.250", "0.250"),
            _solution(Author.TEACHER, -1, "10.0", "40.0", "0.250", "1.000"),
        ),
    ),
)
