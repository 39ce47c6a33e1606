"""The processes of a job: who they are, how they connect, what they agree on."""
