"""Many transcripts at once: nothing of one reaches another, and most of the time goes to the tokenizer."""

import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from cicjax.assets import default_model_folder
from cicjax.logs import native
from cicjax.provenance import Author, encode, protocol
from cicjax.provenance import tokenizer as provenance_tokenizer
from cicjax.provenance.tokenizer import Tokenizer

TURNS = (("system", "system"), ("user", "user"), ("assistant", "agent"), ("assistant", "teacher"))
SENTENCE = (
    "The mass of 12.5 g dissolves in water; n = m / M gives ≈ 0.214 mol, "
    "so <|im_end|> is no end and 浓度 is 0.43 mol/L.\nTherefore"
)


def write_log(path: Path, *, episodes: int) -> Path:
    """Episodes of four turns of about fifty words."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for n in range(episodes):
            texts = [" ".join(draw.choices(SENTENCE.split(" "), k=draw.randint(40, 60))) for _ in TURNS]
            messages = [
                {"role": r, "author": a, "content": text} for (r, a), text in zip(TURNS, texts, strict=True)
            ]
            file.write(json.dumps({"id": str(n), "messages": messages}, ensure_ascii=False) + "\n")
    return path


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("ingest") / "log.jsonl", episodes=500)


@pytest.fixture(scope="module")
def tiny() -> Tokenizer:
    return provenance_tokenizer.load(default_model_folder())


def ingest(log: Path, tokenizer: Tokenizer) -> Sequence[tuple]:
    """Every episode of a file with its arrays and its weights."""
    episodes = native.read_native(log)
    render = protocol.renderer("chatml", ("teacher",), episodes, tokenizer)
    weigh = protocol.weighting("interventional")
    rows = protocol.encode_all(episodes, tokenizer, render=render, path=log)
    return [(episode, encoded, weigh(encoded)) for episode, encoded in rows]


def test_two_thousand_messages_are_masked_as_each_alone(log, tiny):
    rows = ingest(log, tiny)
    assert len(rows) == 500
    for line, (episode, encoded, loss_weights) in zip(
        log.read_text(encoding="utf-8").splitlines(), rows, strict=True
    ):
        alone = native.parse_episode(line, where="alone", line=episode.line)
        assert alone == episode
        for together, separate in zip(
            encoded,
            encode(protocol.renderer("chatml", ("teacher",), [alone], tiny)(alone), tiny),
            strict=True,
        ):
            np.testing.assert_array_equal(together, separate)
        for author in (Author.SYSTEM, Author.USER, Author.AGENT, Author.TEACHER):
            (message,) = (
                message for message in json.loads(line)["messages"] if message["author"] == author.label
            )
            theirs = encoded.tokens[encoded.author == author].tolist()
            assert theirs == [*tiny.encode(message["content"]), tiny.control("<|im_end|>")]
            assert tiny.decode(theirs) == message["content"] + "<|im_end|>"
        np.testing.assert_array_equal(loss_weights, (encoded.author == Author.TEACHER).astype(np.float32))


def test_the_tokenizer_is_the_limit(log, tiny):
    _assert_little_beside_encoding(log, tiny)


@pytest.mark.weights
def test_the_tokenizer_is_the_limit_with_qwen(log, qwen):
    _assert_little_beside_encoding(log, qwen)


def _assert_little_beside_encoding(log: Path, tokenizer: Tokenizer) -> None:
    """In processor time, which a busy machine stretches for both alike. Less than twice is usual; the bound
    leaves room for noise."""
    contents = [message.content for episode in native.read_native(log) for message in episode.messages]
    rounds = [
        (_seconds(lambda: ingest(log, tokenizer)), _seconds(lambda: list(map(tokenizer.encode, contents))))
        for _ in range(3)
    ]
    assert min(whole / encoding for whole, encoding in rounds) < 4


def _seconds(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start
