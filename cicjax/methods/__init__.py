"""One short file per row of the paper's table. A method says which rows are trained on and what each position weighs; it knows no task."""
