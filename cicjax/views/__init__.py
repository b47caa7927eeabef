"""A transcript with its weights, for terminals, pages and other programs."""
