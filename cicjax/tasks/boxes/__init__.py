"""A prize in one of two boxes, an expert who knows in which, and an agent who does not."""
