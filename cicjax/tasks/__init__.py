"""Worlds to learn in. Each gives problems, a verifier and an oracle; none knows of a model or of a method."""
