"""The verbs of the command line, one file each: a frozen dataclass whose docstring is the help and whose
`run` is the work.

A verb imports what it needs inside `run`, so that `cicjax --help` needs no jax.
"""
