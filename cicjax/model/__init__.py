"""Qwen2.5 and its relatives as functions of two trees, base and adapter: read, run, adapted, written."""
