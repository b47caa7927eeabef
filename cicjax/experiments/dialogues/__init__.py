"""Losses (1) and (2) on dialogues in which the agent lies."""
