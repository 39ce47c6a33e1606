"""The command `submit`: job files for SLURM and Kubernetes."""
