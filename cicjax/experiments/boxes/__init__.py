"""Self-delusion where the truth is known."""
