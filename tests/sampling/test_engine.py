"""The engine: what it draws is the sampler's and the training graph's, whoever else is answered; rows come
and go, versions too, and nothing is compiled for them."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_policy import random_policy

from cicjax.devices import kind
from cicjax.errors import BadInput, Corrupted
from cicjax.model import bank, layout, lora, qwen2
from cicjax.objectives import likelihood
from cicjax.provenance import tokenizer as tokenizers
from cicjax.sampling import serving
from cicjax.sampling.draw import row_keys
from cicjax.sampling.engine import QUEUE, STAGE, Engine
from cicjax.sampling.request import BASE, Full, Request
from cicjax.sampling.sampler import Decoding, Sampler

ROWS, LENGTH, SEED = 4, 192, 3
PROMPTS = [(5, 6, 7), tuple(range(9, 99)), (11, 12, 13, 14, 15, 16), (200,)]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    model, base, adapter = random_policy(folder, seed=1)
    return model._replace(kind=kind.CPU), base, adapter, tokenizers.load(folder)


def other(adapter):
    """Another adapter of the same shape: B turned round."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: -leaf if path[-1].key == "lora_b" else leaf, adapter
    )


def started(policy, **changes):
    model, base, adapter, tokenizer = policy
    engine = Engine(
        model, base, tokenizer, **{"rows": ROWS, "slots": 3, "length": LENGTH, "seed": SEED} | changes
    )
    engine.load(1, adapter)
    engine.load(2, other(adapter))
    engine.warm_up()
    return engine


@pytest.fixture(scope="module")
def engine(policy):
    return started(policy)


def request(prompt=PROMPTS[0], **changes):
    given = {"max_tokens": 24, "temperature": 1.0, "stop_ids": (), "version": 1}
    return Request(prompt_ids=tuple(prompt), **given | changes)


def finish(engine, *handles):
    while engine.step():
        pass
    return [joined(each) for each in handles]


def joined(handle):
    pieces = handle.take()
    whole = handle.completion
    assert handle.ended and handle.finish_reason == whole.finish_reason
    assert whole.text == "".join(each.text for each in pieces)
    assert whole.ids == tuple(each for piece in pieces for each in piece.ids)
    return whole


def answers(engine, *requests):
    return finish(engine, *[engine.submit(each) for each in requests])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_the_training_graph(engine, policy, temperature):
    model, base, adapter, _ = policy
    adapters = {1: adapter, 2: other(adapter), BASE: None}
    asked = [
        request(prompt, temperature=temperature, version=version, seed=n)
        for n, (prompt, version) in enumerate(zip(PROMPTS, (1, 2, BASE, 1), strict=True))
    ]
    for each, answer in zip(asked, answers(engine, *asked), strict=True):
        expected = in_training(model, base, adapters[each.version], each, answer)
        assert answer.finish_reason == "length" and len(answer.ids) == 24
        np.testing.assert_allclose(answer.logprobs, expected, atol=1e-4)


def in_training(model, base, adapter, asked, answer):
    """Log-probabilities of an answer by the graph that trains."""
    tokens = jnp.asarray([[*asked.prompt_ids, *answer.ids]])
    logits = qwen2.apply(model, base, adapter, tokens) / (asked.temperature or 1.0)
    return np.asarray(likelihood.token_logprobs(logits, tokens)[0, len(asked.prompt_ids) :])


def test_in_bfloat16_the_adapter_stays_beside_the_base(policy):
    """What a small update changes in the log-probabilities of the next token is what training says it
    changes; merged into the base it is lost in rounding."""
    model, base, adapter, tokenizer = policy
    base = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), base)
    small = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * 0.02 if path[-1].key == "lora_b" else leaf, adapter
    )
    prompts = np.random.default_rng(0).integers(3, 300, (16, 12)).tolist()
    asked = [request(each, temperature=0.0, max_tokens=1, top_logprobs=20, version=1) for each in prompts]
    graph = [
        next_logprobs(model, layout.prepare(base, kind.CPU.training), each, prompts) for each in (small, None)
    ]
    merged = lora.merge_adapter(base, small, model.lora)
    served = {}
    for name, weights, slot in (("beside", base, small), ("merged", merged, None), ("bare", base, None)):
        engine = Engine(model, weights, tokenizer, rows=16, slots=1, length=64)
        engine.load(1, bank.nothing(model.config, model.lora) if slot is None else slot)
        served[name] = tops(engine, asked)
    errors = {}
    for name in ("beside", "merged"):
        pairs = [
            (served[name][n][token] - served["bare"][n][token], graph[0][n, token] - graph[1][n, token])
            for n in range(len(prompts))
            for token in served[name][n].keys() & served["bare"][n].keys()
        ]
        found, wanted = np.asarray(pairs).T
        errors[name] = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    assert errors["beside"] < 1e-3 and errors["merged"] > 0.1, errors


def next_logprobs(model, base, adapter, prompts):
    """Log-probabilities of the token after each prompt in the training graph."""
    return np.asarray(jax.nn.log_softmax(qwen2.apply(model, base, adapter, jnp.asarray(prompts))[:, -1]))


def tops(engine, asked):
    """The most probable first tokens of each answer with their log-probabilities."""
    handles = [engine.submit(each) for each in asked]
    while engine.step():
        pass
    return [dict(each.take()[0].top[0]) for each in handles]


def test_an_answer_is_the_samplers(engine, policy):
    """The same draw: equal seeds give equal tokens, and stops end both alike."""
    model, base, adapter, tokenizer = policy
    sampler = Sampler(model, base, adapter)
    free = sampler.sample(
        PROMPTS[:1],
        row_keys(SEED, STAGE, [7], [0]),
        Decoding(max_new_tokens=40, temperature=1.0, stop_ids=()),
    )[0]
    stop = tokenizer.decode(free.tokens, skip_controls=True)[20:22]
    for how in (
        Decoding(max_new_tokens=40, temperature=1.0, stop_ids=()),
        Decoding(max_new_tokens=40, temperature=1.0, stop_ids=(free.tokens[9],)),
        Decoding(max_new_tokens=40, temperature=0.6, stop_ids=(), top_p=0.8),
        Decoding(max_new_tokens=40, temperature=1.0, stop_ids=(), stop_strings=(stop,)),
        Decoding(max_new_tokens=40, temperature=0.0, stop_ids=()),
    ):
        (drawn,) = sampler.sample(PROMPTS[:1], row_keys(SEED, STAGE, [7], [2]), how, decode=tokenizer.decode)
        (answer,) = answers(
            engine,
            request(
                max_tokens=40,
                temperature=how.temperature,
                top_p=how.top_p,
                stop_ids=how.stop_ids,
                stops=how.stop_strings,
                seed=7,
                sample=2,
            ),
        )
        assert (answer.ids, answer.finish_reason) == (drawn.tokens, drawn.finish_reason)
        np.testing.assert_allclose(answer.logprobs, drawn.logprobs, atol=1e-5)
        assert answer.text == tokenizer.decode(answer.ids, skip_controls=True)


MIXED = [
    {"temperature": 0.0},
    {"temperature": 1.0, "seed": 5},
    {"temperature": 0.6, "seed": 6, "top_p": 0.7},
    {"temperature": 1.3, "seed": 7, "version": 2, "max_tokens": 9},
    {"temperature": 0.0, "version": BASE, "top_logprobs": 3},
    {"temperature": 1.0, "seed": 5, "sample": 1},
    {"temperature": 0.0, "version": 2, "max_tokens": 60},
]


def test_a_row_does_not_notice_the_rows_beside_it(engine):
    """Alone, together with six others in four rows, and in another order: the same bits."""
    asked = [request(PROMPTS[n % 4], **how) for n, how in enumerate(MIXED)]
    alone = [answers(engine, each)[0] for each in asked]
    assert answers(engine, *asked) == alone
    assert answers(engine, *asked[::-1])[::-1] == alone
    assert len({each.ids for each in alone}) == len(alone)


def test_any_number_of_rows_gives_the_same_greedy_answers(engine, policy):
    asked = [request(prompt, temperature=0.0) for prompt in PROMPTS]
    expected = answers(engine, *asked)
    for rows in (1, 16):
        found = answers(started(policy, rows=rows), *asked)
        assert [each.ids for each in found] == [each.ids for each in expected]


def test_a_version_says_the_same_from_every_slot(policy):
    model, base, adapter, tokenizer = policy
    asked = [request(prompt, temperature=t, seed=4) for prompt in PROMPTS for t in (0.0, 1.0)]
    found = []
    for before in range(3):
        engine = Engine(model, base, tokenizer, rows=ROWS, slots=3, length=LENGTH, seed=SEED)
        for number in range(before):
            engine.load(10 + number, other(adapter))
        engine.load(1, adapter)
        found.append(answers(engine, *asked))
    assert found[0] == found[1] == found[2]


def test_equal_prompts_of_one_source_go_in_once(engine, monkeypatch):
    chunks = []
    fill = engine._fill
    monkeypatch.setattr(engine, "_fill", lambda *args, **how: (chunks.append(how), fill(*args, **how)))
    asked = [request(PROMPTS[1], seed=1, sample=n, source="alice") for n in range(4)]
    found = answers(engine, *asked)
    assert len(chunks) == 2 and len({each.ids for each in found}) == 4
    chunks.clear()
    other_source = answers(engine, *(request(PROMPTS[1], seed=1, sample=n, source=f"{n}") for n in range(4)))
    assert len(chunks) == 8 and other_source == found


def test_top_log_probabilities_are_of_what_was_drawn_from(engine, policy):
    model, base, adapter, _ = policy
    asked = request(PROMPTS[2], temperature=0.8, top_logprobs=5, seed=2)
    handle = engine.submit(asked)
    while engine.step():
        pass
    top = [each for piece in handle.take() for each in piece.top]
    answer = handle.completion
    tokens = jnp.asarray([[*asked.prompt_ids, *answer.ids]])
    logits = qwen2.apply(model, base, adapter, tokens)[0, len(asked.prompt_ids) - 1 : -1] / 0.8
    expected, order = jax.lax.top_k(jax.nn.log_softmax(logits), 5)
    assert [[token for token, _ in each] for each in top] == order.tolist()
    np.testing.assert_allclose([[p for _, p in each] for each in top], expected, atol=1e-4)
    for token, logprob, each in zip(answer.ids, answer.logprobs, top, strict=True):
        assert dict(each).get(token, logprob) == pytest.approx(logprob, abs=1e-5)
    (narrow,) = [engine.submit(request(temperature=1.0, top_p=0.05, top_logprobs=5))]
    while engine.step():
        pass
    assert all(0 < len(each) <= 5 for piece in narrow.take() for each in piece.top)


def test_nothing_is_compiled_whatever_is_asked(engine, policy):
    before, adapter = dict(serving.traces), policy[2]
    writes = bank.write._cache_size()
    for number in range(3, 8):
        engine.load(number, jax.tree.map(lambda leaf, n=number: leaf * n, adapter))
        rng = np.random.default_rng(number)
        asked = [
            request(
                rng.integers(3, 300, int(rng.integers(1, 150))).tolist(),
                max_tokens=int(rng.integers(1, 40)),
                temperature=float(rng.choice([0.0, 0.3, 1.7])),
                top_p=float(rng.choice([1.0, 0.4])),
                seed=int(rng.integers(1 << 32)),
                stops=("a", "bc")[: int(rng.integers(3))],
                top_logprobs=int(rng.integers(21)),
                version=int(rng.choice(engine.versions)),
            )
            for _ in range(6)
        ]
        assert all(each.finish_reason in ("length", "stop_string") for each in answers(engine, *asked))
    assert dict(serving.traces) == before and bank.write._cache_size() == writes
    engine.load(1, adapter)
    engine.load(2, other(adapter))


def test_a_cancelled_answer_frees_its_row_within_a_token(engine):
    handles = [engine.submit(request(max_tokens=100, seed=n)) for n in range(ROWS + 1)]
    for _ in range(6):
        engine.step()
    assert engine.stats()["rows_busy"] == ROWS and engine.stats()["queue"] == 1
    seen = handles[1].take()
    engine.step()
    handles[1].cancel()
    assert handles[1].ended and handles[1].finish_reason == "cancelled"
    assert handles[1].completion.ids == tuple(each for piece in seen for each in piece.ids)
    handles[4].cancel()  # one that waits, too
    engine.step()
    assert engine.stats()["rows_busy"] == ROWS - 1 and engine.stats()["queue"] == 0
    alone = [answers(engine, request(max_tokens=100, seed=n))[0] for n in (0, 2, 3)]
    assert [joined(handles[n]) for n in (0, 2, 3)] == alone
    assert list(handles[1]) == [] and handles[1].take() == []


def test_an_answer_ends_with_the_version_it_began_with(policy):
    adapter = policy[2]
    engine = started(policy, slots=2)
    asked = request(PROMPTS[1], max_tokens=30, seed=9)
    (expected,) = answers(engine, asked)
    handle = engine.submit(asked)
    for _ in range(8):
        engine.step()
    engine.load(3, jax.tree.map(lambda leaf: leaf * 3, adapter))  # in the place of version 2
    assert engine.versions == (1, 3)
    engine.drop(1)
    with pytest.raises(BadInput, match="version 1 is not loaded; there are 3"):
        engine.submit(asked)
    third = engine.submit(request(version=3, max_tokens=189))
    with pytest.raises(Full, match="all 2 versions of the bank are answering somebody"):
        engine.load(4, adapter)
    assert finish(engine, handle)[0] == expected
    assert joined(third).finish_reason == "length"
    engine.load(4, other(adapter))
    assert answers(engine, request(version=4, seed=1)) == answers(started(policy), request(version=2, seed=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": ()}, "an empty prompt"),
        ({"prompt": (1, 999)}, "outside the vocabulary of 320"),
        ({"max_tokens": 190}, "a row holds 192"),
        ({"max_tokens": 0}, "of which one at least is new"),
        ({"temperature": -1.0}, "temperature is 0 or more"),
        ({"temperature": float("nan")}, "temperature is 0 or more"),
        ({"top_p": 0.0}, "top_p more than 0"),
        ({"seed": -1}, "seed and sample are 0 to"),
        ({"top_logprobs": 21}, "top_logprobs is 0 to 20"),
        ({"stops": ("",)}, "an empty stop string"),
        ({"version": 77}, "version 77 is not loaded"),
    ],
)
def test_what_cannot_be_answered_is_refused(engine, changes, message):
    with pytest.raises(BadInput, match=message):
        engine.submit(request(changes.pop("prompt", PROMPTS[0]), **changes))
    assert engine.stats()["queue"] == 0


def test_a_full_queue_refuses_and_lets_background_wait(engine):
    handles = [engine.submit(request(max_tokens=1, temperature=0.0)) for _ in range(QUEUE)]
    with pytest.raises(Full, match="64 requests wait already"):
        engine.submit(request())
    later = engine.submit(request(max_tokens=1, temperature=0.0, background=True))
    assert len({each.ids for each in finish(engine, *handles, later)}) == 1


def test_an_adapter_that_cannot_serve_is_refused(engine, policy):
    model, _, adapter, _ = policy
    damaged = jax.tree.map(lambda leaf: leaf.at[0, 0, 0].set(jnp.nan), adapter)
    with pytest.raises(Corrupted, match="not finite"):
        engine.load(50, damaged)
    wide = lora.init_adapter(model.config, lora.LoRAConfig(rank=8), jax.random.key(0))
    with pytest.raises(BadInput, match="another rank"):
        engine.load(50, wide)
    assert 50 not in engine.versions


def test_background_work_gives_its_rows_to_whoever_wants_them(engine):
    quiet = [request(PROMPTS[n], temperature=0.0, background=True, max_tokens=40) for n in range(4)]
    expected = answers(engine, *quiet)
    handles = [engine.submit(each) for each in quiet]
    for _ in range(12):
        engine.step()
    assert engine.stats()["rows_busy"] == ROWS
    wanted = [engine.submit(request(seed=n, max_tokens=5)) for n in range(3)]
    engine.step()
    assert sum(not row.background for row in engine._rows) == 3
    assert finish(engine, *handles) == expected
    assert [joined(each) for each in wanted] == answers(
        engine, *(request(seed=n, max_tokens=5) for n in range(3))
    )


def test_background_work_ends_in_its_spare_row_while_every_other_is_taken(policy):
    engine = started(policy, rows=ROWS - 1, spare=1)
    quiet = [request(PROMPTS[n], temperature=0.0, background=True, max_tokens=6) for n in range(3)]
    expected = answers(engine, *quiet)
    handles = [engine.submit(each) for each in quiet]
    wanted = [engine.submit(request(seed=n, max_tokens=40)) for n in range(6)]
    while not handles[-1].ended:
        assert engine.step() and any(not each.ended for each in wanted)
        for each in (*wanted, *handles):
            each.take()
        busy = [row.background for row in engine._rows]
        assert busy.count(False) <= ROWS - 1 == engine.stats()["rows"]
        if engine._queue:
            assert busy.count(False) == ROWS - 1  # nobody waits for the background's sake
    assert [each.completion for each in handles] == expected
    while engine.step():
        pass


def test_who_is_told_and_fails_harms_nobody_else(engine):
    told = []

    def broken():
        told.append(1)
        raise RuntimeError("the client's loop has ended")

    expected = answers(engine, request(seed=1), request(seed=2))
    handles = [engine.submit(request(seed=1), notify=broken), engine.submit(request(seed=2))]
    assert finish(engine, *handles) == expected and told == [1]


class Clock:
    """Time that passes as work is done: a token a second, a chunk of a prompt too, a slice three."""

    def __init__(self, engine, monkeypatch):
        self.now, self.slices, self.left = 100.0, [], 10**6
        monkeypatch.setattr("cicjax.sampling.engine.time.monotonic", lambda: self.now)
        for name in ("_draw", "_fill"):
            monkeypatch.setattr(engine, name, self.taking(1.0, getattr(engine, name)))
        monkeypatch.setattr(engine, "_learn", self.slice)

    def taking(self, seconds, work):
        def run(*args, **how):
            self.now += seconds
            return work(*args, **how)

        return run

    def slice(self):
        if not self.left:
            return False
        self.left -= 1
        self.now += 3.0
        self.slices.append(self.now)
        return True


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_learning_takes_its_share_and_all_of_an_idle_device(policy, share, monkeypatch):
    engine = started(policy, share=share)
    clock = Clock(engine, monkeypatch)
    for _ in range(5):
        assert engine.step()
    assert len(clock.slices) == 5  # nobody waits
    handle = engine.submit(request(max_tokens=120))
    began, before = clock.now, len(clock.slices)
    while not handle.ended:
        engine.step()
        handle.take()
    learned = 3.0 * (len(clock.slices) - before)
    assert share - 0.05 < learned / (clock.now - began) <= share + 0.03
    gaps = engine.stats()["token_gap"]
    assert gaps["learning"]["max"] == 4.0 and gaps["nothing"]["max"] == 1.0


def test_an_engine_in_a_thread_of_its_own(policy):
    engine = started(policy)
    thread = threading.Thread(target=engine.run)
    thread.start()
    told = []
    asked = [request(PROMPTS[n % 4], seed=n, max_tokens=12) for n in range(9)]
    handles = [engine.submit(each, notify=lambda: told.append(1)) for each in asked]
    texts = ["".join(piece.text for piece in handle) for handle in handles]
    assert [each.completion.text for each in handles] == texts and len(told) >= 9
    assert all(each.seconds_to_first > 0 for each in handles)
    waiting = engine.submit(request(max_tokens=150))
    next(iter(waiting))
    engine.close()
    thread.join()
    assert list(waiting) is not None and waiting.finish_reason == "cancelled"
    assert texts == [each.text for each in answers(started(policy), *asked)]


def test_who_waits_hears_of_what_the_engine_died_of(policy, monkeypatch):
    engine = started(policy)

    def broken(inputs):
        raise MemoryError("no more")

    monkeypatch.setattr(engine, "_draw", broken)
    monkeypatch.setattr(engine, "warm_up", lambda: None)
    handle = engine.submit(request())
    with pytest.raises(MemoryError):
        engine.run()
    with pytest.raises(MemoryError, match="no more"):
        list(handle)
