"""`cicjax repro --experiment online`: what an agent learns while it answers, and what of that replay alone
would have given."""
