"""One job on one machine: errors and exit codes, signals, files, the run directory."""
