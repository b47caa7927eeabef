"""The verifier of equation (6): a number, a tolerance, and a unit where the completion states one.

Which number is the answer:

1. Text from a line `Question:` on is not read: it belongs to another problem.
2. The last `Final answer:` that is followed by a number, on its line or on the next line with any text, and
there the first number.
3. Without one, the last plausible number of the completion.

Never an answer: a number inside a name (log10, H2), an operand of a calculation (12.5 and 98.0 in `12.5/98.0
= 0.128`), the number of a list item or a step, a count of decimals. Total on every string: each rule looks at
a bounded piece of text, so time is linear.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from cicjax.tasks.stem import units
from cicjax.tasks.stem.problem import Problem

_MINUS = "-\u2212\u2013\u2012\ufe63\uff0d"  # in a character class the ASCII one has to come first
_MARKER = re.compile(r"final[ \t]{1,4}answer[ \t*_]{0,8}(?:is\b|[:=\uff1a])", re.I)
_NEXT_QUESTION = re.compile(r"\n[ \t*#]{0,8}Question:")

_RAISED = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
_POWER = rf"[ ]?(?:\^|\*\*)[ ]?[{{(]?[{_MINUS}+]?[0-9]++|[\u207a\u207b]?[{_RAISED}]++"
# 1,234.5 · 1.5e3 · 1.5 x 10^3 · 10^-4. Possessive quantifiers: no digit is read twice, however long the run
_NUMBER = re.compile(
    rf"""(?<![0-9A-Za-z_^.])
    (?:10(?P<bare>{_POWER})[)}}]?
      |(?P<mantissa>(?:[1-9][0-9]{{0,2}}+(?:,[0-9]{{3}}(?![0-9]))++|[0-9]++)(?:\.[0-9]++)?|\.[0-9]++)
       (?:[eE](?P<e>[{_MINUS}+]?[0-9]++)
         |[ ]?(?:[xX\u00d7*\u00b7\u22c5]|\\times|\\cdot)[ ]?10(?P<power>{_POWER})[)}}]?)?
    )""",
    re.VERBOSE,
)
_PLAIN_SIGNS = str.maketrans(_MINUS + _RAISED + "\u207a\u207b", "-" * len(_MINUS) + "0123456789+-")

# what stands directly before a number (9 characters) or after it (16)
_OPERATOR = r"(?:[+/\u00d7\u00f7\u00b1]|(?<!\*)\*|\\times|\\cdot)"
_OPERAND_LEFT = re.compile(
    rf"(?:[\w)\]}}](?:{_OPERATOR}|[{_MINUS}])|[\w)\]}}] (?:{_OPERATOR}|x) |(?:[0-9)\]}}]|\b[A-Za-z]) "
    rf"[{_MINUS}] "
    r"|[0-9]x|[/\u00d7\u00f7\u00b1] ?|\^[{(]?)$"
)
_OPERAND_RIGHT = re.compile(
    rf" ?[/\u00d7\u00f7^{_RAISED}]| ?\\(?:times|cdot)|\*(?=[\w(.])| \* (?=[\w(.])| ?x ?[0-9]| ?\+ ?[0-9(]"
    rf"| [{_MINUS}] [0-9(]|[{_MINUS}][0-9(]"
)
_SIGN = re.compile(rf"(?:(?:^|[^\w)\]}}])[{_MINUS}]|[=:\u2248] ?[{_MINUS}] )$")
_ITEM_LEFT = re.compile(r"(?:^|[\r\n])[ \t#*>-]{0,6}$")
_ITEM_RIGHT = re.compile(r"[.)][ \t]+\S")
_STEP = re.compile(r"\b[Ss]tep $")
_COUNT = re.compile(r"[ -]?(?:decimal|significant|sig\b|s\.?f\b|d\.?p\b|digit)", re.I)


class Verdict(NamedTuple):
    """The grade of one completion.

    Args:
        solved: equation (6), and the unit where one is stated.
        value: the number taken for the answer; None where there is none or it is not finite.
        unit: the unit stated after it, as spelled; None where none is.
        reason: `solved`, `no number`, `not finite`, `wrong value` or `wrong unit`.
    """

    solved: bool
    value: float | None
    unit: str | None
    reason: str

    @property
    def facts(self) -> dict[str, float | str | None]:
        """What only this task says of a completion."""
        return {"value": self.value, "unit": self.unit}


def verify(problem: Problem, completion: str) -> Verdict:
    """Equation (6). `completion` is the agent's own text, without the prompt. Any string has a verdict;
    nothing is raised."""
    text = _own_part(completion)
    found = _answer(text)
    if found is None:
        return Verdict(False, None, None, "no number")
    value = _value(text, found)
    stated = units.read(text[found.end() : found.end() + 100])
    spelled = stated[0] if stated else None
    if not math.isfinite(value):
        return Verdict(False, None, spelled, "not finite")
    # 12.5/100 misses 12.5/98 by exactly 2 %: a tie must not hang on how binary fractions round
    tolerance = max(problem.abs_tol, problem.rel_tol * abs(problem.answer)) * (1 + 1e-9)
    if not abs(value - problem.answer) <= tolerance < math.inf:
        return Verdict(False, value, spelled, "wrong value")
    if stated and not _unit_fits(problem.unit, stated[1]):
        return Verdict(False, value, spelled, "wrong unit")
    return Verdict(True, value, spelled, "solved")


def has_marker(completion: str) -> bool:
    """Whether the completion says `Final answer:` in the part that is its own: format learned, whatever the
    answer."""
    return _MARKER.search(_own_part(completion)) is not None


def _own_part(completion: str) -> str:
    question = _NEXT_QUESTION.search(completion)
    return completion[: question.start()] if question else completion


def _answer(text: str) -> re.Match[str] | None:
    """The number that rules 2 and 3 choose."""
    end = len(text)
    for marker in reversed(list(_MARKER.finditer(text))):
        if found := next(_plausible(text, marker.end(), _end_of_line(text, marker.end(), end)), None):
            return found
        end = marker.start()
    last = None
    for last in _plausible(text, 0, len(text)):  # noqa: B007
        pass
    return last


def _end_of_line(text: str, start: int, end: int) -> int:
    """The end of the first line with any text in text[start:end]."""
    while start < end and text[start].isspace():
        start += 1
    newline = text.find("\n", start, end)
    return end if newline < 0 else newline


def _plausible(text: str, start: int, end: int) -> Iterator[re.Match[str]]:
    for found in _NUMBER.finditer(text, start, end):
        before, after = text[max(0, found.start() - 9) : found.start()], text[found.end() : found.end() + 16]
        item = len(found[0]) <= 2 and _ITEM_LEFT.search(before) and _ITEM_RIGHT.match(after)
        counts = item or _STEP.search(before) or _COUNT.match(after)
        if not (counts or _OPERAND_LEFT.search(before) or _OPERAND_RIGHT.match(after)):
            yield found


def _value(text: str, found: re.Match[str]) -> float:
    """The number as a float; infinite beyond the range of floats."""
    mantissa = (found["mantissa"] or "1").replace(",", "")
    power = (found["e"] or found["power"] or found["bare"] or "0").lstrip(" ^*{(").translate(_PLAIN_SIGNS)
    negative = _SIGN.search(text[max(0, found.start() - 4) : found.start()])
    return float(f"{'-' if negative else ''}{mantissa}e{power}")


def _unit_fits(target: str | None, stated: units.Unit | None) -> bool:
    if target is None:
        return True
    wanted = units.read(target)
    return (
        stated is not None and wanted is not None and wanted[1] is not None and units.same(wanted[1], stated)
    )
