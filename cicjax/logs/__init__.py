"""Logs of agents, others' and ours: read into episodes, checked, cut to a length. No model."""
