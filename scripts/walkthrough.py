# %% [markdown]
# # The paper in ten cells
#
# *Continual, interactive, causal agents* (de Freitas and Ortega, 2026): what the world wrote is evidence,
# what the agent wrote is an
# action. This file runs as a program, `python scripts/walkthrough.py`, and reads as a notebook:
# `walkthrough.ipynb` beside it is made by
# `jupytext --to notebook --set-kernel python3 --execute scripts/walkthrough.py`, after `pip install -e
# '.[notebook]'`.
#
# It needs no downloads: the language model is the embedded base that ships with the package, and a CPU trains
# it in seconds.

# %% [markdown]
# ## 1. The package

# %%
import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("cicjax") is None:
    here = Path.cwd()
    checkout = next(
        (folder for folder in (here, *here.parents) if (folder / "cicjax" / "cli.py").is_file()), None
    )
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", *(["-e", str(checkout)] if checkout else ["cicjax"])],
        check=True,
    )

import os
import tempfile

import jax
import numpy as np

from cicjax.assets import default_model_folder
from cicjax.objectives import bayes, likelihood
from cicjax.provenance import Author, Segment, Transcript, encode, protocol, render, weights
from cicjax.provenance import tokenizer as tokenizers
from cicjax.views import boxes, demo, transcript, transcript_style

# %% [markdown]
# ## 2. Two programs, one action (section 1.1)
#
# An expert knows where the prize is; a novice does not. In somebody else's records the action "open the left
# box" tells who wrote them.
# If *we* open the left box, it tells nothing about us: `do(a)` removes the mechanism P(a | p), and only what
# the world answers counts.

# %%
prior = np.array([0.5, 0.5])
programs = ["left is right", "right is right"]
action_likelihood = np.array([[0.9, 0.1], [0.1, 0.9]])  # P(a | p): who believes in a box opens it
# P(o | p, a): empty, prize
outcome_likelihood = np.array([[[0.2, 0.8], [0.8, 0.2]], [[0.8, 0.2], [0.2, 0.8]]])
left, empty, prize = 0, 0, 1
for outcome, name in ((prize, "prize"), (empty, "empty")):
    conditioned = bayes.after(prior, action_likelihood, outcome_likelihood, left, outcome, intervened=False)
    acted = bayes.after(prior, action_likelihood, outcome_likelihood, left, outcome)
    print(
        f"opened left, {name}: P({programs[0]} | a, o) = {conditioned[0]:.2f}   "
        f"P({programs[0]} | do(a), o) = {acted[0]:.2f}"
    )
assert bayes.after(prior, action_likelihood, outcome_likelihood, left, empty, intervened=False)[0] > 0.5, (
    "delusion: empty, and still sure"
)
assert bayes.after(prior, action_likelihood, outcome_likelihood, left, empty)[0] < 0.5

# %% [markdown]
# Conditioned on its own choice, the agent believes in the left box although it was empty. That is self-
# confirmation in its smallest form.
#
# ## 3. One row of the stream (section 2.2)
#
# A question, the agent's wrong attempt, the teacher's correction. Who wrote a token is recorded when the
# token is made.

# %%
tokenizer = tokenizers.load(default_model_folder())
corrected = demo.EPISODES[1]
row = encode(render.plain(corrected.messages, id=corrected.id), tokenizer)
print(
    "tokens",
    row.tokens.shape,
    "  written by the agent:",
    int(row.gamma.sum()),
    "  targets:",
    int(row.is_target.sum()),
)
in_notebook = "ipykernel" in sys.modules
if in_notebook:  # in colours; underlined is what the interventional objective trains on
    from IPython.display import HTML, display

    weightings = {"interventional": protocol.weighting("interventional")}
    drawn = transcript.transcript_html(row, tokenizer, weightings=weightings)
    switch = transcript.switch_html(list(weightings), shown="interventional")
    display(HTML(f"<style>{transcript_style.STYLE}</style>{switch}{drawn}"))
for author in Author:
    if (row.author == author).any():
        print(
            f"{author.label:<12}",
            tokenizer.decode(row.tokens[row.author == author].tolist()).replace("\n", " / ")[:100],
        )

# %% [markdown]
# ## 4. Two losses, one line each

# %%
interventional = weights.interventional(row.gamma, row.is_target)  # is_target * (1 - gamma), equation (14)
observational = weights.observational(row.gamma, row.is_target)  # is_target, equation (13)
print("interventional\n" + boxes.boxes(row, tokenizer, interventional))
print("\nobservational\n" + boxes.boxes(row, tokenizer, observational))

# %% [markdown]
# ## 5. What the mask does to the gradient
#
# At logits that predict the agent's own tokens the interventional gradient is exactly 0. Yet the loss depends
# on those tokens: they stay in
# the context of everything that comes after.

# %%
from cicjax.model import huggingface, qwen2

config, base = huggingface.load_base(default_model_folder(), jax.numpy.float32)
model = qwen2.Model(config)
tokens = row.tokens[None]


def loss(logits: jax.Array, tokens: np.ndarray) -> jax.Array:
    total, weight = likelihood.weighted_nll(likelihood.token_logprobs(logits, tokens), interventional[None])
    return total / weight


def predicted(tokens: np.ndarray) -> jax.Array:
    return qwen2.apply(model, base, None, jax.numpy.asarray(tokens))


logits = predicted(tokens)
gradient = np.abs(np.asarray(jax.grad(loss)(logits, tokens))).max(axis=-1)[0]
predicts_agent = np.append(row.gamma[1:], 0).astype(bool)  # logits[t] speak of tokens[t + 1]
print("largest gradient where the agent's tokens are predicted:", gradient[predicts_agent].max())
print("largest gradient where the correction is predicted:     ", f"{gradient[~predicts_agent].max():.4f}")
other = np.where(row.gamma == 1, row.tokens[::-1], row.tokens).astype(np.int32)[None]
print(
    f"loss: {loss(logits, tokens):.4f}   with other words in the attempt: {loss(predicted(other), other):.4f}"
)
assert gradient[predicts_agent].max() == 0.0

# %% [markdown]
# ## 6. The experiment, small (sections 2.1-2.4)
#
# SFT-1 learns from teacher rows, then attempts new problems; a verifier grades, an oracle corrects. Both arms
# then start from SFT-1 and eat
# the same rows in the same order. This is the smoke scale, a minute on two cores, at three times the
# experiment's learning rate so that its
# few updates show. It is the machinery; its numbers decide nothing.

# %%
from cicjax.experiments.paper import repro
from cicjax.experiments.paper.flags import Flags

folder = Path(os.environ.get("CICJAX_WALKTHROUGH") or tempfile.mkdtemp()) / "run"
flags = Flags(
    output_dir=folder,
    scale="smoke",
    learning_rate=6e-4,
    methods=("base", "sft", "observational", "interventional"),
)
results = repro.reproduce(flags)
repro.print_table(results)

# %% [markdown]
# ## 7. The ledger
#
# Every position of the stream has one author, so the arms' targets add up exactly.

# %%
assert results.ledger is not None
ledger = dict(results.ledger.columns())
for name, value in ledger.items():
    print(f"{name:<28} {value:>8,}")
assert ledger["positions_observational"] == ledger["positions_attempts"] + ledger["positions_interventional"]

# %% [markdown]
# ## 8. A row that was really trained on

# %%
from cicjax.logs.native import read_native

stream = read_native(folder / "rollouts" / "stream.jsonl")
failed = next(episode for episode in stream if episode.messages[1].solved == 0)
real = encode(render.plain(failed.messages, id=failed.id), tokenizer)
print(boxes.boxes(real, tokenizer, weights.interventional(real.gamma, real.is_target)))

# %% [markdown]
# ## 9. Self-confirmation and truth gain: the paper in one picture
#
# For SFT-1's mistakes: how much likelier did training make the mistake (across), how much likelier the truth
# (up)? In nats a token.

# %%
import matplotlib

if not in_notebook:
    matplotlib.use("Agg")
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
for name, row_of_table in results.methods.items():
    if name != "base" and row_of_table.gains is not None:
        point = row_of_table.gains
        axes.scatter(*point, s=60)
        axes.annotate(name, point, textcoords="offset points", xytext=(6, 6))
        print(f"{name:<16} self-confirmation {point[0]:+.3f}   truth gain {point[1]:+.3f}")
axes.axhline(0, color="grey", lw=0.5)
axes.axvline(0, color="grey", lw=0.5)
axes.set(xlabel="log p(mistake) - SFT-1's, nats a token", ylabel="log p(correction) - SFT-1's, nats a token")
figure.savefig(folder / "self_confirmation.svg")

# %% [markdown]
# ## 10. Your own transcripts
#
# The same arrays serve any log that says who wrote what. An assistant turn by a teacher is evidence; one
# sampled by the model is an action.

# %%
mine = Transcript(
    [
        Segment("Question:\nWhat is 2+2?\n\nProposed solution:\n", Author.USER, is_target=False),
        Segment("5", Author.AGENT, solved=0),
        Segment.end(Author.AGENT, solved=0),
        Segment("Proposed solution:\n", Author.ENVIRONMENT, is_target=False),
        Segment("4", Author.TEACHER),
        Segment.end(Author.TEACHER),
    ]
)
encoded = encode(mine, tokenizer)
print(boxes.boxes(encoded, tokenizer, weights.interventional(encoded.gamma, encoded.is_target)))
print("next: cicjax mask FILE --tokenizer DIR; cicjax train FILE --model DIR --output_dir RUN")
