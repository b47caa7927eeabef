"""Damage as a person meets it: commands over a folder with a fault, and then the way out that the message
names."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import faults
import pytest
import test_stages
import tiny_qwen2
from faults import Fault, Kept, Outcome, Snapshot
from forked import Calls, Ended
from test_faults import ROWS

from cicjax import cli
from cicjax.training import checkpoints

LORA = ["--lora_r", 2, "--lora_target_modules", "q_proj", "v_proj"]  # few leaves, quickly read
SIZES = {"num_hidden_layers": 1, "max_position_embeddings": 1024}
TASK = test_stages.Scripted("tiny")
Command = list[object]


def command(*arguments: str) -> int:
    return cli.main(arguments)


def broken_off(*arguments: str) -> int:
    """The command, stopped as by a kill after its fourth update was saved."""
    save = checkpoints.save

    def stop(directory, step, **rest):
        result = save(directory, step, **rest)
        if step == 4:
            raise KeyboardInterrupt
        return result

    checkpoints.save = stop
    return cli.main(arguments)


class World:
    """A folder with a toy model, a log and prompts; trainings and an experiment as commands make them."""

    def __init__(self, root: Path, call: Calls) -> None:
        self.root, self.call = root, call
        tiny_qwen2.write(root / "toy", seed=4, **SIZES)
        (root / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        (root / "prompts.jsonl").write_text('{"prompt": "Question:\\nA force of 2 N"}\n{"prompt": "a = "}\n')

    def train(self, name: str, *more: object) -> Command:
        where = ["--model", self.root / "toy", "--output_dir", self.root / name]
        numbers = ["--per_device_train_batch_size", 4, "--save_steps", 2, "--max_steps", 5]
        return ["train", self.root / "log.jsonl", *where, *LORA, *numbers, *more]

    def repro(self, name: str, *more: object) -> Command:
        where = ["--model", self.root / "toy", "--output_dir", self.root / name]
        numbers = ["--scale", "smoke", "--num_test", 8, "--num_sft", 12, "--save_steps", 2]
        methods = ["--methods", "sft", "rest", "grpo", "interventional"]
        return ["repro", *where, *LORA, *numbers, *methods, "--task", "test_commands:TASK", *more]

    def run(self, arguments: Command, function: str = "command") -> Ended:
        return self.call(f"test_commands:{function}", *arguments)

    def done(self, arguments: Command, function: str = "command", code: int = 0) -> None:
        ended = self.run(arguments, function)
        assert ended.code == code, ended

    def over(self, name: str, adapter: str, owner: Command) -> list[Command]:
        """The commands that read a run, and the one that made it."""
        where = ["--model", self.root / "toy", "--adapter", self.root / name / adapter]
        return [
            owner,
            ["doctor", self.root / name],
            ["report", self.root / name],
            ["export", self.root / name / adapter, "--model", where[1], "--output_dir", self.root / "out"],
            ["generate", *where, "--prompts", self.root / "prompts.jsonl", "--max_new_tokens", 8, "--json"],
        ]

    def result(self, arguments: Command, run: Path | None) -> Callable[[Ended], object]:
        """What a person takes from the command: what it prints and writes."""

        def taken(ended: Ended) -> object:
            verb, out = arguments[0], ended.out
            if verb == "doctor":
                passing = ("memory", "disk", "cache", "environment")
                return [line for line in out.splitlines() if line.split()[1] not in passing]
            if verb in ("train", "repro"):
                assert run is not None
                return faults.state(run)
            if verb == "report":
                assert run is not None
                return (run / "report.html").read_bytes()
            if verb == "export":
                written = self.root / "out"
                files = {path.name: path.read_bytes() for path in written.iterdir()}
                files.pop("tokenizer_config.json", None)  # a copy of the base's own, whatever is in it
                shutil.rmtree(written)
                return files
            return out

        return taken


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    names = ("test_commands", "cicjax.training.own", "cicjax.experiments.paper.repro", "cicjax.report")
    with Calls(*names) as call:
        world = World(root, call)
        for name, more in {"trained": (), "again": (), "otherwise": ("--seed", 1)}.items():
            world.done(world.train(name, *more))
        yield world


@pytest.fixture(scope="module")
def experiments(world):
    world.done(world.repro("run"))
    world.done(world.repro("other", "--seed", 1))
    return world


class Drill:
    """Faults in one folder; each is met by one of the commands, and after a refusal the way out is taken."""

    def __init__(self, world: World, root: Path, commands: list[Command], *, run: Path | None) -> None:
        self._world, self._root, self._commands, self._run = world, root, commands, run
        self._expected: dict[int, object] = {}

    def judge(self, number: int, fault: Fault, snapshot: Snapshot) -> Outcome:
        which = number % len(self._commands)
        arguments = self._commands[which]
        taken = self._world.result(arguments, self._run)
        if which not in self._expected:
            snapshot.restore()
            self._expected[which] = self._right(arguments)
            snapshot.restore()
            fault.apply(self._root)
        ended = self._world.run(arguments)
        where = (arguments[0], fault, ended)
        assert "Traceback" not in ended.err, where
        if ended.code == 0:
            if taken(ended) != self._expected[which]:
                return Outcome("silent", f"{arguments[0]}: {ended.err}")
            told = faults.named(fault.name, ended.err)
            return Outcome("said" if told else "harmless", ended.err if told else "")
        words = _error_of(ended)
        names = (
            [fault.name] if fault.kind != "swap" or fault.other is None else [fault.name, fault.other.name]
        )
        assert ended.code in (2, 5) and str(self._root) in words, where
        assert self._run is None or any(faults.named(name, words) for name in names), where
        if arguments[0] != "doctor":
            # Of two files that changed places each may be named by a message of its own.
            for _ in names:
                self._take_the_way_out(_error_of(ended), snapshot)
                if (ended := self._world.run(arguments)).code == 0:
                    break
            assert ended.code == 0 and taken(ended) == self._expected[which], (where, ended)
        return Outcome("noticed", words)

    def _right(self, arguments: Command) -> object:
        ended = self._world.run(arguments)
        assert ended.code == 0, (arguments, ended)
        return self._world.result(arguments, self._run)(ended)

    def _take_the_way_out(self, words: str, snapshot: Snapshot) -> None:
        """What the message tells a person to do, before the command is repeated."""
        if "delete " in words:
            path = Path(words.split(": ")[0])
            if step := re.search(r": step (\d+)", words):
                path /= step[1]
            assert path != self._root and path.exists(), words
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            self._world.run(self._commands[0])
        elif "repeat the command that made it" in words:
            self._world.run(self._commands[0])
        else:
            assert "from a copy" in words or "fetch it again" in words or self._run is None, words
            snapshot.restore()


def _error_of(ended: Ended) -> str:
    (words,) = [line for line in ended.err.splitlines() if line.startswith("cicjax: error: ")]
    return words.removeprefix("cicjax: error: ")


def drill(world: World, name: str, count: int, commands: list[Command], **others: str) -> None:
    root = world.root / name
    run = None if name == "toy" else root
    kept = Kept(f"commands-{name}-{count}")
    folders = {kind.replace("_", " "): world.root / other for kind, other in others.items()}
    drawn = faults.draw(root, count, seed=5, others=folders)
    outcomes = faults.strike(root, drawn, Drill(world, root, commands, run=run).judge, kept)
    print(faults.tally(outcomes))
    silent = [each for each in outcomes if each[1].what == "silent"]
    assert not silent, silent[:3]


COUNTS = [pytest.param(1, id="some"), pytest.param(20, id="many", marks=pytest.mark.slow)]


@pytest.mark.parametrize("times", COUNTS)
def test_commands_over_a_damaged_training(world, times):
    commands = world.over("trained", "adapter", world.train("trained"))
    drill(world, "trained", 10 * times, commands, other_run="again", other_seed="otherwise")


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 10])
def test_commands_over_a_damaged_training_that_was_broken_off(world, times):
    if not (world.root / "half").exists():
        world.done(world.train("half"), "broken_off", code=130)
    commands = world.over("half", "adapter", world.train("half"))[:3]
    drill(world, "half", 10 * times, commands, other_run="again", other_seed="otherwise")


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 10])
def test_commands_over_a_damaged_model(world, times):
    tiny_qwen2.write(world.root / "another", seed=9, **SIZES)
    adapter = world.root / "trained" / "adapter"
    model = ["--model", world.root / "toy"]
    generate = ["generate", *model, "--adapter", adapter, "--prompts", world.root / "prompts.jsonl"]
    score = ["score", world.root / "log.jsonl", *model, "--adapter", adapter, "--json"]
    export = ["export", adapter, *model, "--format", "merged", "--output_dir", world.root / "out"]
    commands = [[*generate, "--max_new_tokens", 8, "--json"], score, export]
    drill(world, "toy", 10 * times, commands, other_seed="another")


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 20])
def test_commands_over_a_damaged_experiment(experiments, times):
    commands = experiments.over("run", "interventional", experiments.repro("run"))
    drill(experiments, "run", 10 * times, commands, other_seed="other")
