"""What a compiled program's own text tells: cycles or kernels of one run, collectives, and arrays that should
not be there.

XLA prints a program as computations of instructions, one a line; a loop calls two of them. A loop that runs a
number of times known beforehand says so in its condition; of the others the caller says how often they run.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# Names for what is there already, or waits for it: no kernel is launched.
FREE = set(
    "parameter constant get-tuple-element tuple bitcast while conditional call after-all opt-barrier "
    "partition-id replica-id".split()
)
ARRAY = re.compile(r"\b[a-z]+\d*(?:e\d+m\d+\w*)?\[([\d,]*)\]")
INSTRUCTION = re.compile(r"^  (?:ROOT )?%?([\w.\-]+) = (.*?[\])}]) ([a-z][\w\-]*)\(")
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
# How often loops run whose number of iterations the data decide: by the file that has them, one number for
# all or one for each in the order of the text.
Trips = Mapping[str, Sequence[float]]


class Instruction(NamedTuple):
    """One line: its name, its opcode, the text of its shape, and the whole."""

    name: str
    opcode: str
    shape: str
    line: str

    def arrays(self) -> list[tuple[int, ...]]:
        """The shapes of what it gives, several for a tuple."""
        return [tuple(int(n) for n in dims.split(",") if n) for dims in ARRAY.findall(self.shape)]


class Text(NamedTuple):
    """A program's computations by name, the name of the one that begins, and the innermost source file of
    each frame number."""

    computations: dict[str, list[Instruction]]
    entry: str
    files: dict[str, str]

    def instructions(self) -> Iterator[Instruction]:
        """All of them, those inside fusions too."""
        for computation in self.computations.values():
            yield from computation


@lru_cache(maxsize=1)
def parse(text: str) -> Text:
    """The instructions of `Compiled.as_text()`."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", ""
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            current = match[2]
            computations[current] = []
            entry = current if match[1] else entry
        elif current and (match := INSTRUCTION.match(line)):
            computations[current].append(Instruction(match[1], match[3], match[2], line))
    return Text(computations, entry, _files_of_frames(text))


def _files_of_frames(text: str) -> dict[str, str]:
    """Frame number -> stem of the file of its innermost line: "head" of .../model/head.py."""
    names = dict(re.findall(r'^(\d+) "[^"]*?([\w\-]+)\.py"$', text, re.MULTILINE))
    places = dict(re.findall(r"^(\d+) \{file_name_id=(\d+) ", text, re.MULTILINE))
    frames = re.findall(r"^(\d+) \{file_location_id=(\d+)", text, re.MULTILINE)
    return {frame: names.get(places.get(place, ""), "") for frame, place in frames}


def cycles(text: str, trips: Trips) -> int:
    """The TPU compiler's estimate of one run, in cycles: fusions alone carry one, so that kernels of others
    and waiting for memory are not in it."""
    return round(_total(parse(text), trips, lambda each: sum(map(int, CYCLES.findall(each.line)))))


def cycles_by_file(text: str, trips: Trips) -> dict[str, int]:
    """`cycles` by the source file that an instruction comes from, the largest first; "" for those that the
    compiler added."""
    parsed = parse(text)
    own = {each.name: _file_of(parsed, each) for each in parsed.instructions()}
    found = {}
    for file in set(own.values()):

        def here(each: Instruction, file: str = file) -> int:
            return sum(map(int, CYCLES.findall(each.line))) if own[each.name] == file else 0

        found[file] = round(_total(parsed, trips, here))
    return {file: count for file, count in sorted(found.items(), key=lambda pair: -pair[1]) if count}


def kernels(text: str, trips: Trips) -> int:
    """Launches of one run on a GPU."""

    def launches(each: Instruction) -> int:
        return int(each.opcode not in FREE and not each.opcode.endswith("-done"))

    return round(_total(parse(text), trips, launches))


def _total(text: Text, trips: Trips, cost: Callable[[Instruction], int]) -> float:
    """The cost of the entry, what loops call counted as often as they run, of branches the cheapest: what
    stands behind a condition here is for rows that ask for it."""
    waiting = {file: list(counts) for file, counts in trips.items()}
    each: dict[str, float] = {}

    def of(computation: str) -> float:
        if computation not in each:
            each[computation] = sum(cost(one) + called(one) for one in text.computations[computation])
        return each[computation]

    def called(one: Instruction) -> float:
        if one.opcode == "conditional":
            return min(map(of, re.findall(r"%([\w.\-]+)", _branches(one.line))), default=0)
        if one.opcode == "call":
            return of(_called(one.line, "to_apply"))
        if one.opcode != "while":
            return 0
        count = _known_trips(text, one)
        if count is None:
            counts = waiting.get(_file_of(text, one), [])
            count = (counts.pop(0) if len(counts) > 1 else counts[0]) if counts else 1
        return count * (of(_called(one.line, "body")) + of(_called(one.line, "condition")))

    return of(text.entry)


def _called(line: str, role: str) -> str:
    match = re.search(rf"\b{role}=%?([\w.\-]+)", line)
    return match[1] if match else ""


def _branches(line: str) -> str:
    match = re.search(
        r"branch_computations=\{([^}]*)\}|true_computation=(%\S+), false_computation=(%\S+)", line
    )
    return " ".join(filter(None, match.groups())) if match else ""


def _file_of(text: Text, one: Instruction) -> str:
    match = re.search(r"stack_frame_id=(\d+)", one.line)
    return text.files.get(match[1], "") if match else ""


def _known_trips(text: Text, loop: Instruction) -> int | None:
    """How often a loop over an index from 0 on runs: what the compiler found out, or what its condition
    compares the index with."""
    if match := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.line):
        return int(match[1])
    condition = text.computations[_called(loop.line, "condition")]
    root = next((one for one in condition if one.line.lstrip().startswith("ROOT")), None)
    if root is None or "direction=LT" not in root.line:
        return None
    limits = {one.name: re.search(r"constant\((\d+)\)", one.line) for one in condition}
    operands = re.findall(r"%([\w.\-]+)", root.line.split("(", 1)[1])[:2]
    match = limits.get(operands[-1])
    return int(match[1]) if match else None


def collectives(text: str) -> dict[str, int]:
    """How many exchanges between chips the program has, by kind; none where it has none."""
    found = Counter(one.opcode.removesuffix("-start") for one in parse(text).instructions())
    return {name: found[name] for name in COLLECTIVES if found[name]}


def large_bitcasts(text: str, *, elements: int) -> int:
    """How many times an array of that many elements or more is read as another type of 16 bits: on a TPU it
    is rewritten."""
    return sum(
        one.opcode == "bitcast-convert"
        and one.shape.startswith(("u16", "s16", "bf16", "f16"))
        and any(prod(shape) >= elements for shape in one.arrays())
        for one in parse(text).instructions()
    )


def square_arrays(text: str, *, length: int) -> int:
    """How many instructions give an array with two axes of a multiple of `length`: scores of all tokens
    against all."""
    return sum(
        any(sum(size > 0 and size % length == 0 for size in shape) > 1 for shape in one.arrays())
        for one in parse(text).instructions()
    )


def facts(compiled: Any, *, tpu: bool, trips: Trips, length: int, large: int) -> dict[str, Any]:
    """All of it for one `Compiled`, with its bytes on each chip: arguments, temporaries, and the most that it
    holds at once. `large` is the number of elements from which on a bitcast counts."""
    text, memory = compiled.as_text(), compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    if tpu:
        cost = {"estimated_cycles": cycles(text, trips), "cycles_by_file": cycles_by_file(text, trips)}
    else:
        cost = {"kernels": kernels(text, trips)}
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "bytes": held + memory.temp_size_in_bytes,
        "collectives": collectives(text),
        "bitcasts": large_bitcasts(text, elements=large),
        "square_arrays": square_arrays(text, length=length) if length else 0,
        **cost,
    }
