"""What `scripts/bench` measures; outside the wheel, and nothing of the trainer imports it."""
