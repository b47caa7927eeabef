"""The machine under the program: which kind of device it is, how a process of ours asks for memory."""
