"""results.json as records: what it holds is listed here, once, for whoever writes it and whoever reads it."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from cicjax.errors import Corrupted
from cicjax.experiments.checked import RUN_AGAIN, read_record, require, shown


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a method spent beyond SFT-1: updates, tokens, samples, grades, solutions, floating-point
    operations. `distinct_solutions` counts a question's correction once, however often it failed."""

    updates: int
    empty_updates: int
    rows: int
    supervised_tokens: int
    processed_tokens: int
    learning_rate: float | None
    flop: int
    sampled_tokens: int
    verifier_calls: int
    oracle_solutions: int
    distinct_solutions: int = 0


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """A row of the table: the three protocols of section 2.4, against SFT-1, and what it cost.

    `by_skill` is {skill: [solved, questions]}; `self_confirmation` and `truth_gain` are nats a token, None
    without a stream. `seen_*` count the questions that the stream corrected; the last three are those of
    `held_out`.
    """

    solved: int
    questions: int
    accuracy: float
    wilson_low: float
    wilson_high: float
    by_skill: dict[str, list[int]]
    marker_share: float
    truncated: int
    repair_solved: int
    repair_questions: int
    two_step_solved: int
    kept: int
    lost: int
    gained: int
    harmed: int
    natural_two_step: int
    second_turn: int
    self_confirmation: float | None
    truth_gain: float | None
    budget: Budget
    seen_solved: int = 0
    seen_questions: int = 0
    kl_to_sft: float | None = None
    held_out_nats: dict[str, float] | None = None
    usable_information: dict[str, float] | None = None

    @property
    def right_first(self) -> int:
        """How many questions SFT-1 got right."""
        return self.questions - self.repair_questions

    @property
    def gains(self) -> tuple[float, float] | None:
        """(self_confirmation, truth_gain), where there are any."""
        if self.self_confirmation is None or self.truth_gain is None:
            return None
        return self.self_confirmation, self.truth_gain


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The stream in numbers (section 2.3). `positions` has the loss-bearing positions of each arm that takes
    the stream, by name, and those of the attempts, the oracle's rows and the whole."""

    stream_rows: int
    wrong_attempts: int
    first_attempts_correct: int
    unique_corrected_questions: int
    positions: Mapping[str, int] = field(default_factory=dict)

    def columns(self) -> Iterator[tuple[str, int]]:
        """Every number by its key in results.json."""
        for each in fields(self):
            if each.name != "positions":
                yield each.name, getattr(self, each.name)
        yield from ((f"{POSITIONS}{name}", count) for name, count in self.positions.items())

    @classmethod
    def from_json(cls, record: dict[str, Any], *, where: object) -> Self:
        """The ledger as results.json has it. Raises Corrupted, naming the number that is missing."""
        counts = read_record(cls, record, where=where, place="ledger.", skip="positions")
        names = [
            *EVERY_LEDGER,
            *(key for key in record if key.startswith(POSITIONS) and key not in EVERY_LEDGER),
        ]
        positions = {
            name.removeprefix(POSITIONS): require(record, name, int, where=where, place="ledger.")
            for name in names
        }
        return cls(**{**counts.__dict__, "positions": positions})


POSITIONS = "positions_"
EVERY_LEDGER = tuple(
    f"{POSITIONS}{name}" for name in ("total", "observational", "interventional", "attempts", "oracle")
)


@dataclass(frozen=True, kw_only=True)
class Results:
    """One experiment at one seed. A function of model, seed and settings alone; `ledger`, `grpo` and `rest`
    are empty where no method made them."""

    model: str
    model_name: str
    seed: int
    settings: dict[str, Any]
    ledger: Ledger | None
    grpo: Mapping[str, int]
    rest: Mapping[str, int]
    methods: dict[str, MethodResult]

    @property
    def facts(self) -> dict[str, Mapping[str, int]]:
        """The numbers of section 2.3 by method."""
        return {"rest": self.rest, "grpo": self.grpo}

    def to_json(self) -> dict[str, Any]:
        """The contents of results.json."""
        return {
            "model": self.model,
            "model_name": self.model_name,
            "seed": self.seed,
            "settings": self.settings,
            "ledger": dict(self.ledger.columns()) if self.ledger else {},
            "grpo": dict(self.grpo),
            "rest": dict(self.rest),
            "methods": {name: asdict(row) for name, row in self.methods.items()},
        }

    @classmethod
    def from_json(cls, record: Any, *, where: object) -> Self:
        """What results.json at `where` says. Raises Corrupted, naming the first entry that is missing, of
        another type, or does not fit the others."""
        kinds = {"model": str, "seed": int, "settings": dict, "ledger": dict, "methods": dict}
        entries = {name: require(record, name, kind, where=where, place="") for name, kind in kinds.items()}
        entries["ledger"] = Ledger.from_json(entries["ledger"], where=where) if entries["ledger"] else None
        for method in ("grpo", "rest"):
            counts = record.get(method) or {}
            entries[method] = {
                name: require(counts, name, int, where=where, place=f"{method}.") for name in counts
            }
        if not entries["methods"]:
            raise Corrupted(f"{where}: holds no method; {RUN_AGAIN}")
        entries["methods"] = {
            name: _method(row, where=where, place=f"methods.{shown(name)}")
            for name, row in entries["methods"].items()
        }
        return cls(model_name=str(record.get("model_name", "unnamed")), **entries)


def _method(value: Any, *, where: object, place: str) -> MethodResult:
    row = read_record(MethodResult, value, where=where, place=f"{place}.")
    if not (
        0 <= row.solved <= row.questions > 0
        and 0 <= row.repair_solved <= row.repair_questions <= row.questions
    ):
        raise Corrupted(f"{where}: the counts of {place} do not fit together; {RUN_AGAIN}")
    if (row.self_confirmation is None) != (row.truth_gain is None):
        raise Corrupted(
            f"{where}: {place}.self_confirmation is there without truth_gain or the other way round; "
            f"{RUN_AGAIN}"
        )
    for skill, counted in row.by_skill.items():
        if not (isinstance(counted, list) and len(counted) == 2 and all(type(n) is int for n in counted)):
            raise Corrupted(
                f"{where}: {place}.by_skill.{shown(skill)} is not [solved, questions]; {RUN_AGAIN}"
            )
    return row
