"""`cicjax agent`: an agent that goes on learning, by hand in a terminal; one dataclass a verb."""
