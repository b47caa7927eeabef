"""An agent that goes on learning: it acts, observes, and learns from what the world writes, never from its
own words. It knows nothing of HTTP."""
