"""The paper as a graph of stages over one run folder."""
