"""Where a program runs: what each kind of device wants, and the process around it."""
