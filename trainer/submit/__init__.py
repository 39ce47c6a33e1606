"""`trainer submit`: job files for SLURM and Kubernetes."""
