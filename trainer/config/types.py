"""What OmegaConf says about a value of the wrong type, as a rule in plain words."""

_RULES = {  # part of OmegaConf's message -> the rule
    "to Integer": "use a whole number",
    "to Float": "use a number",
    "to Boolean": "use true or false",
    "not a valid bool": "use true or false",
    "not a ListConfig": "use a list, like [512,512]",
    "not Optional": "it needs a value",
    "'None' for field": "it needs a value",
    "Unexpected type": "use int, float, bool, str, an Enum, a dataclass, or lists of these",
}


def rule_of(message: str) -> str | None:
    """Return the rule that a value breaks, given the message of OmegaConf's error."""
    return next((rule for part, rule in _RULES.items() if part in message), None)
