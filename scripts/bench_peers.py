"""The same work by PyTorch + peft and by transformers `generate`, in a process of its own, as their users run
them.

`Peer` is the benchmark's side: it starts the process and times nothing itself. The process answers each "run"
with (seconds, result), so that sending and waiting count for neither. It imports jax along with the script
that starts it, and runs nothing with it.
"""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Work(NamedTuple):
    """What a peer needs to know: a Hugging Face folder, a precision, and the job with its arguments."""

    folder: str
    dtype: str
    job: str
    arguments: dict[str, Any]


class Peer:
    """A job in a process of its own. Use as a context; calling it runs the job once and gives (seconds,
    result)."""

    def __init__(self, work: Work):
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, work), daemon=True)

    def __enter__(self) -> "Peer":
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def __call__(self) -> tuple[float, Any]:
        self._connection.send("run")
        while not self._connection.poll(1.0):
            if not self._process.is_alive():
                raise RuntimeError("the peer's process has ended")
        return self._connection.recv()


def _serve(connection: Any, work: Work) -> None:
    import torch  # pyright: ignore[reportMissingImports]

    run = {"train": training, "sample": sampling, "multiply": multiplying}[work.job](torch, work)
    while connection.recv() == "run":
        started = time.perf_counter()
        result = run()
        connection.send((time.perf_counter() - started, result))


def _model(torch: Any, work: Work) -> Any:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(work.folder, dtype=getattr(torch, work.dtype))
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def training(torch: Any, work: Work) -> Callable[[], float]:
    """An epoch as peft runs it: padded batches, labels -100, AdamW, clipping. Batches without any label are
    passed over."""
    from peft import LoraConfig, get_peft_model  # pyright: ignore[reportMissingImports]

    model = get_peft_model(_model(torch, work), LoraConfig(task_type="CAUSAL_LM", **work.arguments["lora"]))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.0)
    batches = [
        {name: torch.tensor(column) for name, column in padded(rows).items()}
        for rows in work.arguments["updates"]
        if rows
    ]

    def epoch() -> float:
        loss = 0.0
        for batch in batches:
            if not (batch["labels"] != -100).any():
                continue
            result = model(**{name: column.to(model.device) for name, column in batch.items()})
            result.loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            loss = float(result.loss.detach())
        return loss

    return epoch


def padded(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """(tokens, labels) of one update -> the three columns of a padded batch."""
    size = (len(rows), max(len(tokens) for tokens, _ in rows))
    batch = {
        "input_ids": np.zeros(size, np.int64),
        "attention_mask": np.zeros(size, np.int64),
        "labels": np.full(size, -100, np.int64),
    }
    for number, (tokens, labels) in enumerate(rows):
        for name, column in (
            ("input_ids", tokens),
            ("attention_mask", np.ones(len(tokens), np.int64)),
            ("labels", labels),
        ):
            batch[name][number, : len(tokens)] = column
    return batch


def sampling(torch: Any, work: Work) -> Callable[[], int]:
    """One completion a prompt by `generate`, left-padded, in one batch; gives the number of tokens up to each
    row's stop."""
    model = _model(torch, work).eval()
    prompts, stops, temperature = (work.arguments[name] for name in ("prompts", "stop_ids", "temperature"))
    length = max(map(len, prompts))
    ids = torch.tensor([[stops[0]] * (length - len(prompt)) + list(prompt) for prompt in prompts]).to(
        model.device
    )
    attention = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]).to(
        model.device
    )
    how = (
        {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        if temperature > 0
        else {"do_sample": False}
    )
    settings = how | {
        "max_new_tokens": work.arguments["max_new_tokens"],
        "eos_token_id": list(stops),
        "pad_token_id": stops[0],
    }

    def sample() -> int:
        torch.manual_seed(0)
        with torch.no_grad():
            out = model.generate(ids, attention_mask=attention, repetition_penalty=1.0, **settings)
        count = 0
        for row in out[:, length:].tolist():
            count += next((place for place, token in enumerate(row) if token in stops), len(row) - 1) + 1
        return count

    return sample


def multiplying(torch: Any, work: Work) -> Callable[[], float]:
    """Operations a second of torch's own product at the model's shapes: what this device can do in other
    hands."""
    rows, inputs, outputs = work.arguments["shape"]
    times = work.arguments["times"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.ones((rows, inputs), dtype=getattr(torch, work.dtype), device=device)
    layer = torch.nn.Linear(inputs, outputs, bias=False, dtype=x.dtype, device=device)

    def multiply() -> float:
        best = 0.0
        with torch.no_grad():
            for _ in range(20):
                started = time.perf_counter()
                for _ in range(times):
                    layer(x)
                if device == "cuda":
                    torch.cuda.synchronize()
                best = max(best, times * 2 * rows * inputs * outputs / (time.perf_counter() - started))
        return best

    return multiply
