"""The kinds of data sets: what the options data.* name."""
