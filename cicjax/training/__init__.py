"""Rows to adapters: batches, jitted steps, the learner and its checkpoints."""
