"""One short file per row of the paper's table. A method says which rows are trained on and what each position
weighs; it knows no task."""

from typing import Literal, get_args

Method = Literal["base", "sft", "rest", "grpo", "oracle", "oracle_shared", "observational", "interventional"]
METHODS: tuple[Method, ...] = get_args(Method)
