"""`trainer doctor`: checks of a machine or a cluster before a job is queued."""
