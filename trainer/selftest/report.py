"""What a self-test is to prove, the exit codes it accepts, what it has counted, as a table."""

from __future__ import annotations

import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.job.errors import EXIT_COMPLETED, EXIT_RETRY, TrainerError
from trainer.selftest import inspect
from trainer.selftest.children import Layout


@dataclass
class Options:
    """What to prove, and how."""

    kills: int
    signals: list[signal.Signals]
    layouts: list[Layout]  # drawn from at every start
    reference: Layout  # of the run that nobody interrupts
    flip_every: int | None
    seed: int
    overrides: list[str]


@dataclass
class Tally:
    """What has happened so far."""

    interruptions: int = 0
    chains: int = 0  # interrupted runs that were completed
    restarts: int = 0
    redone: int = 0  # steps
    redone_at_most: int = 0
    flipped: int = 0
    set_aside: int = 0
    by_signal: Counter[str] = field(default_factory=Counter)
    by_phase: Counter[str] = field(default_factory=Counter)
    by_layout: Counter[str] = field(default_factory=Counter)  # starts
    peer_ends: Counter[str] = field(default_factory=Counter)  # exit codes of those not hit
    slowest_peer: float = 0.0  # seconds from a loss to the end of the others


class Broken(TrainerError):
    """Something that has to hold does not; the message says what."""


def allowed_codes(number: signal.Signals, *, hit: bool, clean: bool) -> set[int]:
    """Return how a process may end after an interruption. Pure.

    Args:
        number: the signal.
        hit: it was sent to this process, and not only to another of the run.
        clean: all that were hit could answer; SIGKILL nobody can.
    """
    codes = {EXIT_COMPLETED}  # it may just have been done
    if clean:
        return codes | {EXIT_RETRY}
    if not hit:  # jax ends a process by SIGABRT itself where peers.py does not watch yet
        return codes | {EXIT_RETRY, -signal.SIGABRT}
    if number is signal.SIGKILL:
        return codes | {-number}
    return codes | {EXIT_RETRY, -number, 1}  # before Python answers signals, or after


def report(
    tally: Tally,
    expected: str,
    got: str | None,
    problems: list[str],
    seconds: float,
    folder: Path | None,
) -> dict[str, Any]:
    """Return the result, as JSON. Pure."""
    return {
        "proven": not problems,
        "differences": problems,
        **vars(tally),
        "wall_seconds": round(seconds, 1),
        "weights_sha256_unbroken": expected,
        "weights_sha256_interrupted": got,
        "kept_in": str(folder) if folder else None,
    }


def rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the lines of the result's table: what, and how much. Pure."""
    phases = {phase: result["by_phase"].get(phase, 0) for phase in inspect.PHASES}
    table = [
        ("interruptions", f"{result['interruptions']} ({_counts(result['by_signal'])})"),
        ("  reached", _counts(phases)),
        ("restarts", f"{result['restarts']}, in {result['chains']} run(s) brought to the end"),
        ("starts by layout", _counts(result["by_layout"])),
        ("steps redone", f"{result['redone']:,}, at most {result['redone_at_most']} at once"),
        ("checkpoints", f"{result['flipped']} flipped, {result['set_aside']} set aside"),
    ]
    if result["peer_ends"]:
        ends = ", ".join(f"{code}: {count}" for code, count in sorted(result["peer_ends"].items()))
        told = f"exit codes {ends}; the slowest after {result['slowest_peer']:.1f} s"
        table.append(("peers of lost ones", told))
    table.append(("wall time", f"{result['wall_seconds']:.1f} s"))
    table.append(("weights, unbroken", result["weights_sha256_unbroken"]))
    table.append(("weights, ended last", str(result["weights_sha256_interrupted"])))
    table += [("differs", line) for line in result["differences"][:20]]
    if result["kept_in"]:
        table.append(("kept in", result["kept_in"]))
    verdict = "proven: every run ended with the bits and the log of the unbroken one"
    table.append(("verdict", verdict if result["proven"] else "NOT EQUAL"))
    return table


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
