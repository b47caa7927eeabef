"""What people who come from TRL, axolotl or Unsloth type out of habit, each with the sentence that says how
it is here. A flag that works is in its verb and not here."""

from collections.abc import Collection, Sequence

from cicjax.errors import BadInput

_AUTHORSHIP = (
    "whose words are trained on is a matter of authors here: observational trains every assistant's turn, "
    "interventional (the default) only what others than the agent wrote; say --objective and --targets"
)
_LOCAL = (
    "data is a local file whose authors are known; download it, and `cicjax convert` makes transcripts of it"
)
_MEMORY = (
    "memory follows from the rows alone: attention goes by blocks and layers run twice where that is needed"
)
_DEVICE = "leave it out; a run is given the devices that jax finds"
_PEFT = "leave it out; what is trained is a LoRA adapter always"
_RESUME = "leave it out; the same command, repeated, resumes, and a folder is never overwritten"

HABITS = {
    **dict.fromkeys(("assistant_only_loss", "completion_only_loss", "train_on_responses_only"), _AUTHORSHIP),
    **dict.fromkeys(("train_on_inputs", "roles_to_train"), _AUTHORSHIP),
    **dict.fromkeys(("dataset_name", "dataset", "datasets", "streaming", "dataset_config"), _LOCAL),
    **dict.fromkeys(("train_file", "data_path"), "FILE stands after the verb: cicjax train FILE"),
    **dict.fromkeys(("bf16", "fp16", "tf32", "torch_dtype"), "say --dtype bfloat16 or float32, of the base"),
    **dict.fromkeys(("use_peft", "adapter_type", "peft_type"), _PEFT),
    **dict.fromkeys(
        ("packing", "sample_packing"), "leave it out; rows are packed always, with attention apart"
    ),
    **dict.fromkeys(("gradient_checkpointing", "use_gradient_checkpointing"), f"leave it out; {_MEMORY}"),
    **dict.fromkeys(
        ("attn_implementation", "flash_attention", "use_flash_attention_2"), f"leave out; {_MEMORY}"
    ),
    **dict.fromkeys(
        ("resume_from_checkpoint", "overwrite_output_dir", "auto_resume_from_checkpoints"), _RESUME
    ),
    **dict.fromkeys(("load_in_4bit", "load_in_8bit"), "bases are bfloat16 or float32 here; say --dtype"),
    **dict.fromkeys(("device_map", "no_cuda", "use_cpu", "deepspeed", "fsdp"), _DEVICE),
    **dict.fromkeys(("optim", "optimizer"), "leave it out; the optimizer is AdamW with float32 moments"),
    **dict.fromkeys(
        ("push_to_hub", "hub_model_id"), "nothing is uploaded; `cicjax export`, then `hf upload NAME FOLDER`"
    ),
    **dict.fromkeys(("chat_template", "chat_template_path"), "protocols are --format plain, chatml or qwen3"),
    **dict.fromkeys(("max_seq_length", "sequence_len", "cutoff_len"), "the longest row is --max_length"),
    **dict.fromkeys(("num_epochs", "epochs"), "passes over the file are --num_train_epochs"),
    **dict.fromkeys(
        ("batch_size", "micro_batch_size"), "rows of an update are --per_device_train_batch_size"
    ),
    **dict.fromkeys(("lr",), "the rate is --learning_rate"),
    **dict.fromkeys(("run_name",), "leave it out; a run is called as its --output_dir is"),
    **dict.fromkeys(("eval_strategy", "evaluation_strategy"), "say --eval_file, and --eval_steps N"),
    **dict.fromkeys(
        ("logging_steps", "logging_dir"), "leave it out; metrics.jsonl has every update of the run"
    ),
    **dict.fromkeys(
        ("loss_type", "beta", "dpo_beta"), "a loss over pairs is a script: docs/extend.md has one"
    ),
    **dict.fromkeys(("model_max_length",), "the longest row is --max_length"),
}


def check(arguments: Sequence[str], known: Collection[str]) -> None:
    """Raise BadInput, with the sentence, for the first flag that is another trainer's and not among those
    known."""
    for argument in arguments:
        if argument.startswith("--"):
            name = argument[2:].split("=")[0].replace("-", "_")
            if name not in known and name in HABITS:
                raise BadInput(f"--{name}: {HABITS[name]}")
