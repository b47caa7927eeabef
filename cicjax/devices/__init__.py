"""Devices: one table of what each kind of device wants."""
