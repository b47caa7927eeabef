"""Arms: rows beside the paper's table, each a control that tells apart what the table cannot.

    sft2, replay_only                teacher rows alone            more of the same; what ReST's samples add
    mask_wrong, mask_correct         the stream, one kind masked   errors, or provenance?
    dose_*                           attempts weigh little         how much imitation harms
    shuffled                         another question's attempt    repair information, or augmentation?
    verdict_*                        the verdict is told           v of (14); a verifier's words as evidence
    every_world                      questions and prefixes too    equation (2) in full
    no_oracle                        a passing sample corrects     the price of the oracle
    interventional_replay            and the teacher's rows        an anchor on the plain prompt
    deduplicated                     one attempt a question        many attempts, or many questions?

An arm of one's own is one more record in the tuple.
"""

from dataclasses import replace

from cicjax.methods import arm_rows, interventional, observational, oracle, sft
from cicjax.methods.method import Method
from cicjax.provenance import protocol
from cicjax.provenance.transcript import Author


def _between(name: str, label: str, colour: str, *, wrong: float = 0.0, correct: float = 0.0) -> Method:
    """A stream whose attempts weigh something between the two streams of the paper."""
    weighting = protocol.weighting("stream", wrong=wrong, correct=correct)
    return replace(_STREAM, name=name, label=label, weighting=weighting, colour=colour)


_STREAM = replace(interventional.METHOD, equation="beside equations (13)-(14)", marker="p")
_TEACHER = replace(
    sft.METHOD, samples=None, equation="equation (7) again", speakers=(Author.TEACHER,), marker="d"
)
_TOLD = replace(_STREAM, rows=arm_rows.judged, told=True, marker=">")

ARMS: tuple[Method, ...] = (
    replace(
        _TEACHER,
        name="sft2",
        label="SFT-2",
        short="SFT-2",
        meaning="trained on the teacher's rows again, as many as the stream has: more of the same",
        rows=arm_rows.teacher_again,
        colour="#3d4650",
    ),
    replace(
        _TEACHER,
        name="replay_only",
        label="Replay only",
        short="",
        meaning="trained on the teacher's rows once more: ReST without its own samples",
        colour="#b98a5a",
    ),
    oracle.SHARED,
    _between("mask_wrong", "Wrong attempts masked", "#2c8a8f", correct=1.0),
    _between("mask_correct", "Right attempts masked", "#a33b6b", wrong=1.0),
    _between("dose_0.03", "Dose 0.03", "#8fbf5a", wrong=0.03, correct=0.03),
    _between("dose_0.1", "Dose 0.1", "#b5b04a", wrong=0.1, correct=0.1),
    _between("dose_0.3", "Dose 0.3", "#cf9a3f", wrong=0.3, correct=0.3),
    replace(
        _STREAM,
        name="shuffled",
        label="Shuffled attempts",
        meaning="the interventional stream with another question's wrong attempt before each correction",
        rows=arm_rows.shuffled,
        colour="#7d6bb0",
    ),
    replace(
        _TOLD,
        name="verdict_context",
        label="Verdict told",
        meaning="the interventional stream with the verdict told after every attempt",
        colour="#3f74b5",
    ),
    replace(
        _TOLD,
        name="verdict_context_observational",
        label="Verdict told, observational",
        short="verdict, obs.",
        meaning="the observational stream with the verdict told after every attempt",
        weighting=observational.METHOD.weighting,
        colour="#c7503f",
    ),
    replace(
        _TOLD,
        name="verdict_evidence",
        label="Verdict learned",
        meaning="the interventional stream with the verdict told after every attempt, and learned",
        evidence=(Author.TEACHER.label, Author.VERIFIER.label),
        colour="#5b9bd0",
    ),
    replace(
        _STREAM,
        name="every_world",
        label="Every world token",
        equation="equation (2)",
        meaning="the interventional stream with loss on questions and prefixes too",
        evidence=("world",),
        colour="#4f9d3a",
    ),
    replace(
        _STREAM,
        name="no_oracle",
        label="Repair without oracle",
        meaning="failed attempts followed by a passing sample of the same group, which is learned",
        rows=arm_rows.repaired_by_itself,
        weighting=protocol.weighting("stream", correct=1.0),
        speakers=(Author.AGENT,),
        colour="#9c7a2e",
    ),
    replace(
        _STREAM,
        name="interventional_replay",
        label="Interventional + replay",
        short="interv. + replay",
        meaning="the interventional stream with the teacher's rows among it",
        rows=arm_rows.with_replay,
        colour="#0b6b4c",
    ),
    replace(
        _STREAM,
        name="deduplicated",
        label="One attempt a question",
        meaning="the interventional stream with one failed attempt a question, over and over",
        rows=arm_rows.deduplicated,
        colour="#67b39a",
    ),
)
