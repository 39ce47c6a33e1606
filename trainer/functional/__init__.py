"""Pure functions of ONE example: layers, losses, schedules, SGD."""
