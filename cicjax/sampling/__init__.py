"""Prompts to completions with ids, log-probabilities and finish reasons."""
