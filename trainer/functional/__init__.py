"""Pure functions of ONE example: layers, activations, dropout, losses."""
