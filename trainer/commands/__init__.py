"""The command line: one small file a command; the larger ones are packages of their own."""

# Each names a module with main(arguments, stop).
COMMANDS = {
    "train": "trainer.commands.train",
    "runs": "trainer.commands.runs",
    "evaluate": "trainer.commands.evaluate",
    "predict": "trainer.commands.predict",
    "export": "trainer.export.command",
    "sweep": "trainer.sweep.command",
    "verify": "trainer.commands.verify",
    "doctor": "trainer.doctor.command",
    "submit": "trainer.submit.command",
    "selftest": "trainer.selftest.command",
}
