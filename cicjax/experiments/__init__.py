"""Experiments, a folder each, and the attempts that all of them ask for."""
