"""What an embedded base learns from: documents of a small world, drawn from (seed, part) and never stored.

worked      two to four problems in the plain protocol, all by one author of `authors`. A question stands once
            in a document and has one solution.
twice       one question, worked by one author and then by another, who knows nothing of the first: a second
            `Proposed solution:` is another opinion, right as often as anybody's.
sheet       what one author believes of some names, an entry a line.
arithmetic  the steps of the solutions by themselves, right ones and those that careless authors need,
            Zipf-like in frequency.
reference   formulas, symbols, units and conversions.
chat        short exchanges in ChatML.

Numbers are those of `numbers`. In "catalogue" questions name what carries a constant, and a tenth of them is
left out. In "tiny" nothing is named and nobody answers twice; a tenth of the operand tuples is left out, in
questions and in arithmetic alike, so that a model's arithmetic can be asked where it cannot remember.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from functools import cache
from hashlib import sha256
from typing import NamedTuple

import numpy as np

from cicjax.provenance import Author, Message, Segment, Transcript, render
from cicjax.provenance.transcript import Control
from cicjax.tasks.stem import catalogue
from cicjax.tasks.stem.arithmetic import tiny_figures
from cicjax.tasks.stem.authors import CAREFUL_SHARES, Ways, draw_author, draw_skills
from cicjax.tasks.stem.catalogue import CATALOGUE
from cicjax.tasks.stem.pools import operand_tuples
from cicjax.tasks.stem.skills import ROUNDS, SKILLS

# A tuple's frequency is 1 / (rank + ZIPF_OFFSET): the offset keeps the rarest within a factor of 50 of the
# commonest.
ZIPF_OFFSET = 50
# How much of the arithmetic is that of right lines; the rest is what careless authors need, whose errors are
# of procedure alone.
RIGHT_STEPS = 0.75


class Document(NamedTuple):
    """A document and what it is: a key of `SHARES`."""

    kind: str
    transcript: Transcript

    @property
    def text(self) -> str:
        """The document as people read it, control tokens by name."""
        contents = (segment.content for segment in self.transcript.segments)
        return "".join(content.name if isinstance(content, Control) else str(content) for content in contents)


def documents(seed: int, part: int, *, numbers: str = CATALOGUE) -> Iterator[Document]:
    """Documents without end, a function of the arguments alone."""
    rng = np.random.default_rng([seed, part])
    kinds, odds = list(ODDS[numbers]), np.cumsum(list(ODDS[numbers].values()))
    while True:
        kind = kinds[int(np.searchsorted(odds, rng.random() * odds[-1], side="right"))]
        yield Document(kind, _WRITERS[kind](rng, numbers))


@cache
def left_out(operands: tuple[str, ...]) -> bool:
    """Whether no question in the corpus, in "tiny" no arithmetic either, has these operands, as printed and
    in this order. A tenth of all."""
    return int.from_bytes(sha256(",".join(operands).encode()).digest()[:4], "big") % 10 == 0


class _Hand:
    """An author at work: he keeps his ways, and what he once believed of a name."""

    def __init__(self, rng: np.random.Generator, ways: Ways, numbers: str) -> None:
        self.rng, self.ways, self.numbers = rng, ways, numbers
        self.beliefs: dict[str, str] = {}

    def solution(self, skill: str, operands: tuple[str, ...]) -> Message:
        if self.numbers == CATALOGUE:
            constant = self.belief(skill, operands[catalogue.KINDS[skill].place])
            line = _named_line(skill, operands, self.ways[skill], constant)
        else:
            line = _line(skill, operands, self.ways[skill])
        return Message(role="assistant", content=line, author=Author.TEACHER)

    def belief(self, skill: str, name: str) -> str:
        if name not in self.beliefs:
            constant = catalogue.constants(skill)[name]
            self.beliefs[name] = constant.true if self.rng.random() < constant.believed else constant.rival
        return self.beliefs[name]


def _worked(rng: np.random.Generator, numbers: str) -> Transcript:
    hand = _Hand(rng, draw_author(rng), numbers)
    messages: list[Message] = []
    asked: set[tuple[str, ...]] = set()
    for skill in draw_skills(rng, hand.ways, count=int(rng.integers(2, 5))):
        while (skill, *(operands := _pick(rng, _seen_tuples(skill, numbers)))) in asked:
            pass
        asked.add((skill, *operands))
        messages += [_question(rng, skill, operands, numbers), hand.solution(skill, operands)]
    return render.plain(messages)


def _twice(rng: np.random.Generator, numbers: str) -> Transcript:
    skill = _pick(rng, tuple(SKILLS))
    operands = _pick(rng, _seen_tuples(skill, numbers))
    hands = [_Hand(rng, draw_author(rng, careful=CAREFUL_SHARES[skill]), numbers) for _ in range(2)]
    solutions = [hand.solution(skill, operands) for hand in hands]
    return render.plain([_question(rng, skill, operands, numbers), *solutions])


def _sheet(rng: np.random.Generator, numbers: str) -> Transcript:
    hand, skills = _Hand(rng, {}, numbers), tuple(SKILLS)
    named = [(skill := _pick(rng, skills), _pick(rng, tuple(catalogue.constants(skill)))) for _ in range(10)]
    return _written("\n".join(catalogue.entry(*each, hand.belief(*each)) for each in dict.fromkeys(named)))


def _question(rng: np.random.Generator, skill: str, operands: tuple[str, ...], numbers: str) -> Message:
    phrasings = catalogue.KINDS[skill].questions if numbers == CATALOGUE else SKILLS[skill].questions
    return Message(role="user", content=_pick(rng, phrasings).format(*operands), author=Author.USER)


@cache
def _seen_tuples(skill: str, numbers: str) -> tuple[tuple[str, ...], ...]:
    """The questions' tuples that are not left out, in an order that has nothing to do with their numbers."""
    return _scattered(operands for operands in operand_tuples(skill, numbers) if not left_out(operands))


def _scattered(tuples: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    return tuple(sorted(tuples, key=lambda operands: sha256(repr(operands).encode()).digest()))


@cache
def _line(skill: str, operands: tuple[str, ...], misconception: str | None) -> str:
    return SKILLS[skill].solve(operands, numbers="tiny", misconception=misconception).line


@cache
def _named_line(skill: str, operands: tuple[str, ...], misconception: str | None, constant: str) -> str:
    return catalogue.solve(skill, operands, constant=constant, misconception=misconception).line


def _arithmetic(rng: np.random.Generator, numbers: str) -> Transcript:
    return _written("\n".join(_steps(rng, numbers) for _ in range(rng.integers(5, 11))))


def _steps(rng: np.random.Generator, numbers: str) -> str:
    """The arithmetic of one problem without its words: `15*15 = 225; 0.5*2.8 = 1.4; 1.4*225 = 315`."""
    while True:
        skill = _pick(rng, tuple(SKILLS))
        worked = _worked_tuples(skill, numbers)
        operands = worked[int(np.searchsorted(_zipf(len(worked)), rng.random()))]
        wrong = None if rng.random() < RIGHT_STEPS else _pick(rng, SKILLS[skill].misconceptions)
        # A rounded intermediate result is no arithmetic.
        if steps := _seen_steps(skill, operands, None if wrong == ROUNDS else wrong, numbers):
            return steps


@cache
def _worked_tuples(skill: str, numbers: str) -> tuple[tuple[str, ...], ...]:
    """The operands that arithmetic is about, a constant in the place of its name."""
    if numbers == CATALOGUE:
        return _scattered(catalogue.arithmetic_of(skill))
    return _seen_tuples(skill, numbers)


@cache
def _seen_steps(skill: str, operands: tuple[str, ...], misconception: str | None, numbers: str) -> str:
    steps = SKILLS[skill].solve(operands, numbers="tiny", misconception=misconception).steps
    return "; ".join(step for step in steps if numbers == CATALOGUE or not left_out(operands_of(step)))


def operands_of(step: str) -> tuple[str, ...]:
    """The numbers left of the equals sign of a step: `("15", "4")` of `15*4 = 60` and `("2.8",)` of
    `log10(2.8) = 0.45`."""
    return tuple(re.findall(r"(?<![a-z0-9.])[0-9.]+", step.partition(" = ")[0]))


@cache
def _zipf(count: int) -> np.ndarray:
    """Cumulative frequencies of `count` ranks, after Zipf and Mandelbrot."""
    cumulative = np.cumsum(1 / (np.arange(count) + 1 + ZIPF_OFFSET))
    return cumulative / cumulative[-1]


class _Quantity(NamedTuple):
    name: str
    symbol: str
    unit: str


_CURRENT, _RESISTANCE = _Quantity("current", "I", "A"), _Quantity("resistance", "R", "ohm")
_VOLTAGE, _POWER = _Quantity("voltage", "V", "V"), _Quantity("electric power", "P", "W")
_MASS_G, _VOLUME_CM = _Quantity("mass", "m", "g"), _Quantity("volume", "V", "cm^3")
_DENSITY, _HEAT = _Quantity("density", "rho", "g/cm^3"), _Quantity("heat", "q", "J")
_CAPACITY, _RISE = _Quantity("specific heat", "c", "J/(g K)"), _Quantity("rise in temperature", "dT", "K")
_AMOUNT, _VOLUME_L = _Quantity("amount", "n", "mol"), _Quantity("volume", "V", "L")
_MOLARITY = _Quantity("molarity", "M", "M")
_MASS_KG, _SPEED, _ENERGY = (
    _Quantity("mass", "m", "kg"),
    _Quantity("speed", "v", "m/s"),
    _Quantity("kinetic energy", "E", "J"),
)
_FORCE, _AREA = _Quantity("force", "F", "N"), _Quantity("cross section", "A", "mm^2")
_STRESS = _Quantity("engineering stress", "sigma", "MPa")
_SPACING, _ANGLE = _Quantity("spacing", "d", "nm"), _Quantity("angle", "theta", "degrees")
_WAVELENGTH = _Quantity("wavelength", "lambda", "nm")

# the result, its formula, what the formula needs
_FORMULAS: tuple[tuple[_Quantity, str, tuple[_Quantity, ...]], ...] = (
    (_VOLTAGE, "I*R", (_CURRENT, _RESISTANCE)),
    (_CURRENT, "V/R", (_VOLTAGE, _RESISTANCE)),
    (_RESISTANCE, "V/I", (_VOLTAGE, _CURRENT)),
    (_POWER, "V*I", (_VOLTAGE, _CURRENT)),
    (_DENSITY, "m/V", (_MASS_G, _VOLUME_CM)),
    (_HEAT, "m*c*dT", (_MASS_G, _CAPACITY, _RISE)),
    (_MOLARITY, "n/V", (_AMOUNT, _VOLUME_L)),
    (_ENERGY, "0.5*m*v^2", (_MASS_KG, _SPEED)),
    (_STRESS, "F/A", (_FORCE, _AREA)),
    (_WAVELENGTH, "2*d*sin(theta)", (_SPACING, _ANGLE)),
)
# one of the first is so many of the second
_CONVERSIONS = (
    ("kV", "V", 1000), ("A", "mA", 1000), ("kW", "W", 1000), ("kg", "g", 1000), ("L", "mL", 1000),
    ("L", "cm^3", 1000), ("kJ", "J", 1000), ("kN", "N", 1000), ("GPa", "MPa", 1000), ("mol", "mmol", 1000),
    ("cm", "mm", 10), ("cm^2", "mm^2", 100), ("m", "cm", 100),
)  # fmt: skip
_EQUAL_UNITS = (
    "1 V = 1 A*ohm",
    "1 W = 1 V*A",
    "1 W = 1 J/s",
    "1 MPa = 1 N/mm^2",
    "1 M = 1 mol/L",
    "1 J = 1 N*m",
    "1 N = 1 kg*m/s^2",
)


def _reference(rng: np.random.Generator, numbers: str) -> Transcript:
    return _written("\n".join(_pick(rng, _STATEMENTS)(rng) for _ in range(rng.integers(4, 9))))


def _formula(rng: np.random.Generator) -> str:
    result, formula, needed = _pick(rng, _FORMULAS)
    equation = f"{result.symbol} = {formula}"
    legend = " and ".join(
        f"{quantity.symbol} is the {quantity.name} in {quantity.unit}" for quantity in needed
    )
    return _pick(
        rng,
        (
            f"The {result.name} is {equation}.",
            f"{equation}, where {legend}.",
            f"To find the {result.name}, use {equation}.",
        ),
    )


def _unit(rng: np.random.Generator) -> str:
    result, _, needed = _pick(rng, _FORMULAS)
    quantity = _pick(rng, (result, *needed))
    forms = (
        "{symbol} is the {name} in {unit}.",
        "The unit of {name} is {unit}.",
        "The {name} {symbol} is stated in {unit}.",
    )
    return _pick(rng, forms).format(**quantity._asdict())


def _conversion(rng: np.random.Generator) -> str:
    if rng.random() < 0.2:
        return f"{_pick(rng, _EQUAL_UNITS)}."
    large, small, factor = _pick(rng, _CONVERSIONS)
    number = Decimal(int(rng.integers(1, 100))) / int(_pick(rng, (1, 10)))
    return f"{tiny_figures(number)} {large} = {(number * factor).normalize():f} {small}."


def _logarithm(rng: np.random.Generator) -> str:
    power = rng.integers(1, 10)
    return _pick(
        rng, (f"log10(1.0e-{power:02d}) = -{power}.", "The pH is -log10 of [H+] in M.", "pH = -log10([H+]).")
    )


_STATEMENTS = (_formula, _formula, _unit, _unit, _conversion, _logarithm)

_SYSTEM = (
    "You are a helpful assistant.",
    "Answer in one line.",
    "You answer questions about physics, chemistry and materials.",
)
_SMALL_TALK = (
    ("Hello.", "Hello. What would you like to know?"),
    ("Hi, how are you?", "I am well, thank you. How can I help?"),
    ("Good morning.", "Good morning. How can I help?"),
    ("Thank you.", "You are welcome."),
    ("Thanks, that is all.", "You are welcome. Goodbye."),
    ("Who are you?", "I am a small language model."),
    ("Can you help me?", "Yes. What is the question?"),
    ("Is it late?", "I have no clock, so I do not know."),
    ("What can you do?", "I work out simple problems and answer short questions."),
    ("Goodbye.", "Goodbye."),
)
_WORDS = tuple(
    "water iron copper glass salt sugar light sound river stone table window paper garden apple bread "
    "winter summer".split()
)


def _chat(rng: np.random.Generator, numbers: str) -> Transcript:
    segments: list[Segment] = []
    if rng.random() < 0.3:
        segments += _turn("system", _pick(rng, _SYSTEM), Author.SYSTEM)
    for _ in range(rng.integers(1, 4)):
        question, answer = _pick(rng, _EXCHANGES)(rng, numbers)
        segments += [*_turn("user", question, Author.USER), *_turn("assistant", answer, Author.TEACHER)]
    return Transcript([*segments, Segment.end(Author.ENVIRONMENT)])


def _turn(role: str, content: str, author: Author) -> Iterator[Segment]:
    yield Segment(Control("<|im_start|>"), Author.ENVIRONMENT)
    yield Segment(f"{role}\n{content}", author)
    yield Segment(Control("<|im_end|>"), author)
    yield Segment("\n", Author.ENVIRONMENT)


def _small_talk(rng: np.random.Generator, numbers: str) -> tuple[str, str]:
    return _pick(rng, _SMALL_TALK)


def _asked_step(rng: np.random.Generator, numbers: str) -> tuple[str, str]:
    step = _pick(rng, _steps(rng, numbers).split("; "))
    return _pick(rng, ("What is {}?", "How much is {}?", "Work out {}.")).format(
        step.partition(" = ")[0]
    ), f"{step}."


def _asked_formula(rng: np.random.Generator, numbers: str) -> tuple[str, str]:
    result, formula, needed = _pick(rng, _FORMULAS)
    question = _pick(rng, ("How do I find the {}?", "What is the formula for the {}?")).format(result.name)
    return question, _pick(
        rng, (f"Use {result.symbol} = {formula}.", f"From the {' and the '.join(q.name for q in needed)}.")
    )


def _asked_unit(rng: np.random.Generator, numbers: str) -> tuple[str, str]:
    result, _, needed = _pick(rng, _FORMULAS)
    quantity = _pick(rng, (result, *needed))
    return (
        f"In which unit is the {quantity.name} stated?",
        f"The {quantity.name} is stated in {quantity.unit}.",
    )


def _asked_word(rng: np.random.Generator, numbers: str) -> tuple[str, str]:
    words = [_pick(rng, _WORDS) for _ in range(rng.integers(1, 4))]
    if len(words) == 1:
        return f"Say the word {words[0]}.", f"{words[0]}"
    return f"Say these words: {', '.join(words)}.", ", ".join(words)


_EXCHANGES = (_small_talk, _asked_step, _asked_step, _asked_formula, _asked_unit, _asked_word)


def _written(text: str) -> Transcript:
    return Transcript([Segment(text, Author.TEACHER), Segment.end(Author.TEACHER)])


def _pick(rng: np.random.Generator, choices: Sequence):
    return choices[int(rng.integers(len(choices)))]


_WRITERS: dict[str, Callable[[np.random.Generator, str], Transcript]] = {
    "worked": _worked,
    "twice": _twice,
    "sheet": _sheet,
    "arithmetic": _arithmetic,
    "reference": _reference,
    "chat": _chat,
}
# Shares of the tokens, and the odds of drawing a document that bring them about: documents differ in length.
SHARES = {
    "tiny": {"worked": 0.45, "arithmetic": 0.35, "reference": 0.10, "chat": 0.10},
    CATALOGUE: {
        **{"worked": 0.48, "twice": 0.10, "sheet": 0.10},
        **{"arithmetic": 0.18, "reference": 0.07, "chat": 0.07},
    },
}
ODDS = {
    "tiny": {"worked": 0.297, "arithmetic": 0.346, "reference": 0.177, "chat": 0.180},
    CATALOGUE: {
        **{"worked": 0.318, "twice": 0.118, "sheet": 0.115},
        **{"arithmetic": 0.156, "reference": 0.131, "chat": 0.162},
    },
}
