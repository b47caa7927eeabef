"""Units as people spell them after a number. Two spellings are one unit when scale and dimension agree: mol/L
is M, kJ is not J."""

import math
import re
from typing import NamedTuple


class Unit(NamedTuple):
    """Scale in SI base units, and the powers of kg, m, s, A, mol, K."""

    scale: float
    powers: tuple[int, ...]

    def times(self, other: "Unit", power: int) -> "Unit":
        """This unit times `other` to a power."""
        return Unit(
            self.scale * other.scale**power,
            tuple(a + power * b for a, b in zip(self.powers, other.powers, strict=True)),
        )


_ONE = Unit(1.0, (0, 0, 0, 0, 0, 0))
_JOULE = Unit(1.0, (1, 2, -2, 0, 0, 0))

# symbol, full name (or nothing), unit; all of these take a metric prefix
_PREFIXABLE = (
    ("g", "gram", Unit(1e-3, (1, 0, 0, 0, 0, 0))),
    ("m", "meter", Unit(1.0, (0, 1, 0, 0, 0, 0))),
    ("", "metre", Unit(1.0, (0, 1, 0, 0, 0, 0))),
    ("s", "second", Unit(1.0, (0, 0, 1, 0, 0, 0))),
    ("A", "ampere", Unit(1.0, (0, 0, 0, 1, 0, 0))),
    ("", "amp", Unit(1.0, (0, 0, 0, 1, 0, 0))),
    ("mol", "mole", Unit(1.0, (0, 0, 0, 0, 1, 0))),
    ("K", "kelvin", Unit(1.0, (0, 0, 0, 0, 0, 1))),
    ("L", "liter", Unit(1e-3, (0, 3, 0, 0, 0, 0))),
    ("l", "litre", Unit(1e-3, (0, 3, 0, 0, 0, 0))),
    ("N", "newton", Unit(1.0, (1, 1, -2, 0, 0, 0))),
    ("Pa", "pascal", Unit(1.0, (1, -1, -2, 0, 0, 0))),
    ("J", "joule", _JOULE),
    ("W", "watt", Unit(1.0, (1, 2, -3, 0, 0, 0))),
    ("C", "coulomb", Unit(1.0, (0, 0, 1, 1, 0, 0))),
    ("V", "volt", Unit(1.0, (1, 2, -3, -1, 0, 0))),
    ("ohm", "ohm", Unit(1.0, (1, 2, -3, -2, 0, 0))),
    ("Hz", "hertz", Unit(1.0, (0, 0, -1, 0, 0, 0))),
    ("M", "molar", Unit(1e3, (0, -3, 0, 0, 1, 0))),
    ("eV", "electronvolt", Unit(1.602176634e-19, _JOULE.powers)),
    ("cal", "calorie", Unit(4.184, _JOULE.powers)),
    ("bar", "bar", Unit(1e5, (1, -1, -2, 0, 0, 0))),
    ("Wh", "", Unit(3600.0, _JOULE.powers)),
)
_ANGSTROM = Unit(1e-10, (0, 1, 0, 0, 0, 0))
_DEGREE = Unit(math.pi / 180, _ONE.powers)
# these take none
_SYMBOLS = {
    "\u00c5": _ANGSTROM,
    "\u212b": _ANGSTROM,
    "\u00b0": _DEGREE,
    "\u00b0C": Unit(1.0, (0, 0, 0, 0, 0, 1)),
    "%": Unit(0.01, _ONE.powers),
    "cc": Unit(1e-6, (0, 3, 0, 0, 0, 0)),
    "Nm": _JOULE,
    "atm": Unit(101325.0, (1, -1, -2, 0, 0, 0)),
    "psi": Unit(6894.757, (1, -1, -2, 0, 0, 0)),
}
_NAMES = {"angstrom": _ANGSTROM, "degree": _DEGREE, "percent": Unit(0.01, _ONE.powers)}
_PREFIX_SYMBOLS = {
    "": 1.0,
    "G": 1e9,
    "M": 1e6,
    "k": 1e3,
    "d": 1e-1,
    "c": 1e-2,
    "m": 1e-3,
    "u": 1e-6,
    "n": 1e-9,
    "p": 1e-12,
}
_PREFIX_NAMES = {
    "": 1.0, "giga": 1e9, "mega": 1e6, "kilo": 1e3, "deci": 1e-1, "centi": 1e-2, "milli": 1e-3,
    "micro": 1e-6, "nano": 1e-9, "pico": 1e-12,
}  # fmt: skip


def _table() -> tuple[dict[str, Unit], dict[str, Unit]]:
    symbols, names = dict(_SYMBOLS), dict(_NAMES)
    for symbol, name, unit in _PREFIXABLE:
        symbols |= {
            prefix + symbol: Unit(factor * unit.scale, unit.powers)
            for prefix, factor in _PREFIX_SYMBOLS.items()
            if symbol
        }
        names |= {
            prefix + name: Unit(factor * unit.scale, unit.powers)
            for prefix, factor in _PREFIX_NAMES.items()
            if name
        }
    # a unit of its own wins over a prefixed one that reads the same: M, m, cal, mol, Pa, min
    symbols |= {symbol: unit for symbol, _, unit in _PREFIXABLE if symbol}
    return symbols, names


_BY_SYMBOL, _BY_NAME = _table()

_LINE = re.compile(r"[ *_]*([^\r\n]{0,80})")
_SUPERSCRIPTS = str.maketrans(
    "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b", "0123456789+-"
)
_SUPERSCRIPT = re.compile("[\u207a\u207b]?[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]++")
_LATEX = re.compile(r"\\(?:text|mathrm|rm|left|right)\b|\\[,;: ]|[{}$~]")
_SPELLINGS = {
    "ohm": ("\\Omega", "\u2126", "\u03a9"),
    "u": ("\\mu", "\u00b5", "\u03bc"),
    "*": ("\\cdot", "\\times", "\u00b7", "\u22c5", "\u00d7"),
    "-": ("\u2212",),
    "N*m": ("N m",),
}
_WORD = r"(?P<shape>(?:square|cubic) )?(?P<word>[A-Za-z\u00c5\u212b\u00b0%]++)"
_TERM = re.compile(_WORD + r"(?:(?:\^|\*\*)?(?P<power>[-+]?[0-9])(?![0-9]|\.[0-9]))?", re.I)
_JOIN = re.compile(r" ?/ ?\(?| per | ?\* ?|-| ")
_SHAPES = {"square ": 2, "cubic ": 3}


def same(left: Unit, right: Unit) -> bool:
    """Whether two units are one: same dimension, same scale."""
    return left.powers == right.powers and math.isclose(left.scale, right.scale, rel_tol=1e-9)


def read(text: str) -> tuple[str, Unit | None] | None:
    """The unit that `text` begins with: (as spelled, its meaning), or None where it begins with no known
    unit.

    The meaning is None for a known unit per something unknown, which is a unit, and not the right one. Looks
    at 80 characters of the first line, behind spaces and emphasis.
    """
    line = _LINE.match(text)
    text = _plain(line[1] if line else "")
    term = _TERM.match(text)
    unit = _meaning(term)
    if term is None or unit is None:
        return None
    end, inside = term.end(), False
    while join := _JOIN.match(text, end):
        term = _TERM.match(text, join.end())
        factor = _meaning(term)
        inside = inside or join[0].endswith("(")
        divides = inside or "/" in join[0] or join[0] == " per "
        if term is None or factor is None:
            return (text[: term.end()], None) if term and divides else (text[:end], unit)
        # a mere space multiplies only where an exponent shows that the symbol is meant: `mol L^-1`, not `3 V
        # A voltage`
        if join[0] in ("-", " ") and not inside and not term["power"]:
            break
        unit = unit.times(factor, -1 if divides else 1)
        end = term.end()
        if inside and text.startswith(")", end):
            end, inside = end + 1, False
    return text[:end], unit


def _plain(text: str) -> str:
    """One spelling for superscripts, LaTeX and look-alike letters."""
    text = _SUPERSCRIPT.sub(lambda found: "^" + found[0].translate(_SUPERSCRIPTS), text)
    for plain, spellings in _SPELLINGS.items():
        for spelling in spellings:
            text = text.replace(spelling, plain)
    text = re.sub(r"\^[{(]([-+]?[0-9])[)}]", r"^\1", text)
    return " ".join(_LATEX.sub("", text).split())


def _meaning(term: re.Match[str] | None) -> Unit | None:
    """The unit that one term names, its power applied; None for a word that is no unit. Symbols heed case,
    names do not."""
    if term is None:
        return None
    word = term["word"]
    name = word.lower()
    unit = _BY_SYMBOL.get(word) or _BY_NAME.get(name) or _BY_NAME.get(name.removesuffix("s"))
    if unit is None:
        return None
    return _ONE.times(unit, _SHAPES[term["shape"].lower()] if term["shape"] else int(term["power"] or 1))
