"""Calls of `doctor`, and its findings."""

import json

DOCTOR = ("doctor", "+experiment=smoke", "--json")


def table(out):
    """Return the findings, by their checks: nothing else is on standard output."""
    return {finding["check"]: finding for finding in json.loads(out)}
