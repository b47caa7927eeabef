"""The paper's own numbers, one run of Qwen2.5-0.5B: sections 2.3 to 2.5."""

from cicjax.experiments.paper.records import Ledger

BASE = "qwen2.5-0.5b"
COUNTS = {
    "sft_rows": 200,
    "agent_problems": 200,
    "test_problems": 100,
    "wrong_attempts": 400,
    "groups": 50,
}

# Section 2.4 on 100 test questions, and section 2.5 on the 37 that SFT-1 failed there.
SOLVED = {
    "base": 42,
    "sft": 63,
    "rest": 84,
    "grpo": 75,
    "oracle": 81,
    "observational": 61,
    "interventional": 85,
}
REPAIRED = {"oracle": 18, "interventional": 22}
QUESTIONS, FAILED = 100, 37

# Section 2.3. Attempts are what the two arms differ by; the oracle's tokens are said to be the interventional
# arm's.
LEDGER = Ledger(
    stream_rows=785,
    wrong_attempts=400,
    first_attempts_correct=385,
    unique_corrected_questions=70,
    positions={
        "total": 81_131,
        "observational": 51_121,
        "interventional": 17_924,
        "attempts": 33_197,
        "oracle": 17_924,
    },
)
FACTS = {
    "rest": {"candidates": 400, "groups": 50, "selected": 30, "replay": 200, "pairs": 230},
    "grpo": {"groups": 50, "flat_groups": 24, "update_steps": 26},
}
