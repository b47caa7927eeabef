"""`cicjax export`: an adapter for others, as a peft folder or merged into its base."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from cicjax.errors import BadInput, printable

if TYPE_CHECKING:
    from cicjax.model.config import LoRAConfig, Qwen2Config


@dataclass(frozen=True)
class Export:
    """Write an adapter for others, with a model card: a folder for peft, vLLM and llama.cpp, or the base with
    the adapter merged in.

    Nothing is overwritten: the folder appears whole under its name, or not at all.

    Example: cicjax export runs/small/interventional --model Qwen2.5-0.5B --format peft --output_dir
    interventional-peft
    """

    adapter: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ADAPTER")]
    """RUN/METHOD of a run, whose newest checkpoint is taken, or a folder that peft saved."""
    output_dir: Annotated[Path, tyro.conf.arg(metavar="OUT")]
    """Folder to be made; it must not exist."""
    model_name_or_path: Annotated[str | None, tyro.conf.arg(aliases=["--model"], metavar="DIR_OR_HUB_ID")] = (
        None
    )
    """The base that the adapter was trained on; without one, the base that the run's config.json names."""
    format: Literal["peft", "merged"] = "peft"
    """peft: the adapter alone. merged: a whole Hugging Face folder, added in float32."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of the merged weights; auto is the base's own. A peft adapter is float32."""
    base_name: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """What adapter_config.json and the card call the base, such as its hub id; by default as --model says."""
    license: Annotated[str | None, tyro.conf.arg(metavar="ID")] = None
    """Licence line of the card, such as apache-2.0; by default the one that the base's own card has."""

    def run(self) -> None:
        from cicjax.model import huggingface, storage
        from cicjax.provenance import tokenizer
        from cicjax.training.adapters import load_adapter

        if self.format == "peft" and self.dtype not in ("auto", "float32"):
            raise BadInput("--dtype is for --format merged; a peft adapter is stored in float32")
        storage.refuse_existing(self.output_dir)
        name = self._base()
        location = huggingface.resolve(name)
        config, fingerprint = huggingface.read_config(location), huggingface.fingerprint(location)
        adapter, lora, facts = load_adapter(
            self.adapter,
            config,
            base_fingerprint=fingerprint,
            base_name=name,
            tokenizer_fingerprint=tokenizer.load(location).fingerprint,
        )
        if self.format == "peft":
            self._write_peft(adapter, lora, facts, name=name, location=location)
        else:
            merged_into = facts | {"base_fingerprint": fingerprint}
            self._write_merged(adapter, lora, merged_into, name=name, location=location, config=config)

    def _base(self) -> str:
        """The base as --model or the run's configuration names it; null there is the embedded one."""
        from cicjax.assets import default_model_folder
        from cicjax.training.adapters import run_config

        config = run_config(self.adapter)
        if self.model_name_or_path is None and "model_name_or_path" not in config:
            raise BadInput(
                f"{self.adapter}: nothing beside it says on which base it was trained; "
                "name it with --model DIR_OR_HUB_ID"
            )
        name = self.model_name_or_path or config.get("model_name_or_path")
        return str(name if name is not None else default_model_folder())

    def _card(
        self,
        lora: "LoRAConfig",
        facts: dict[str, Any],
        *,
        name: str,
        location: Path,
        merged_dtype: str | None = None,
    ) -> str:
        from cicjax.logs import template
        from cicjax.methods.card import licence_of, model_card

        return model_card(
            self.adapter,
            known=facts,
            lora=lora,
            base_name=self.base_name or name,
            name=self.output_dir.name,
            licence=self.license or licence_of(location),
            merged_dtype=merged_dtype,
            has_template=template.exists(location),
        )

    def _write_peft(
        self,
        adapter: dict[str, Any],
        lora: "LoRAConfig",
        facts: dict[str, Any],
        *,
        name: str,
        location: Path,
    ) -> None:
        from cicjax.model.peft import write_peft
        from cicjax.training.adapters import PEFT_FACTS

        metadata = {key: str(facts[key]) for key in PEFT_FACTS if key in facts}
        card = self._card(lora, facts, name=name, location=location)
        write_peft(
            self.output_dir,
            adapter,
            lora,
            base_model_name_or_path=self.base_name or name,
            card=card,
            metadata=metadata,
        )
        print(printable(f"{self.output_dir}: {_described(adapter, lora)}, as peft reads it"))

    def _write_merged(
        self,
        adapter: dict[str, Any],
        lora: "LoRAConfig",
        facts: dict[str, Any],
        *,
        name: str,
        location: Path,
        config: "Qwen2Config",
    ) -> None:
        from cicjax.model import huggingface
        from cicjax.model.peft import does_nothing

        if does_nothing(adapter):
            raise BadInput(
                f"{self.adapter}: the adapter changes nothing (it was never trained), "
                "so the base is the merged model already"
            )
        dtype = str(huggingface.stored_dtype(location, config)) if self.dtype == "auto" else self.dtype
        card = self._card(lora, facts, name=name, location=location, merged_dtype=dtype)
        huggingface.write_merged(
            self.output_dir, location, adapter=adapter, lora=lora, dtype=dtype, card=card
        )
        described = _described(adapter, lora)
        print(printable(f"{self.output_dir}: {described}, merged with those of {name}, in {dtype}"))


def _described(adapter: dict[str, Any], lora: "LoRAConfig") -> str:
    import jax

    return (
        f"{sum(leaf.size for leaf in jax.tree.leaves(adapter)):,} parameters of rank {lora.rank} on "
        f"{len(lora.target_modules)} projections"
    )
