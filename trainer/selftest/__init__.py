"""`trainer selftest`: interrupts real runs and compares the weights."""
