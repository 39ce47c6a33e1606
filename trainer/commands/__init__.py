"""The command line: one small file a command."""

# Each a module here with main(arguments, stop).
COMMANDS = (
    "train",
    "runs",
    "evaluate",
    "predict",
    "export",
    "sweep",
    "verify",
    "doctor",
    "submit",
    "selftest",
)
