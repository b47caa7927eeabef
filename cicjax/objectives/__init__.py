"""The objectives of the paper as pure functions of arrays; they know nothing of models or of text."""
