"""The command line: one small file a command; the larger ones are packages of their own."""

# Each names a module with main(arguments, stop). It returns the exit code, or raises TrainerError,
# with a code that --help lists. After --help it may raise SystemExit(0), as argparse does.
COMMANDS = {
    "train": "trainer.commands.train",
    "new": "trainer.new.command",
    "runs": "trainer.commands.runs",
    "evaluate": "trainer.commands.evaluate",
    "predict": "trainer.commands.predict",
    "export": "trainer.export.command",
    "sweep": "trainer.sweep.command",
    "verify": "trainer.commands.verify",
    "doctor": "trainer.doctor.command",
    "local": "trainer.commands.local",
    "plan": "trainer.plan.command",
    "submit": "trainer.submit.command",
    "selftest": "trainer.selftest.command",
    "laws": "trainer.selftest.laws_command",
    "dashboard": "trainer.commands.dashboard",
}
