"""The small tokenizer of the tests of text."""

from byte_tokenizer import bare_folder, folder, qwen, tokenizer  # noqa: F401
