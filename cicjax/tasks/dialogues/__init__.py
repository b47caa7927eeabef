"""Section 1.2's dialogues: an agent that lies, and a user who knows."""
