"""Will a job fit: what its programs need and send on devices that are not here."""
