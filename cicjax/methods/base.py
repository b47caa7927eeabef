"""The base: the weights as they are, with no adapter. Where every method starts from."""

from cicjax.methods.method import Method

METHOD = Method(
    name="base",
    label="Base",
    meaning="the weights as they are, untrained",
    speakers=(),
    colour="#9aa1a9",
    marker="o",
)
