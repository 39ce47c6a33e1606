"""What `doctor` looks at before a job is submitted; each check returns what it found."""
