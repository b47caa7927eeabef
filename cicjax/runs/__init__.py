"""Where a run keeps its files: one folder, one writer, nothing half written; free of jax."""
