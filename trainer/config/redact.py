"""What is recorded of the configuration and of the environment: everything but the secrets."""

import re
from enum import Enum
from typing import Any

_HIDDEN = "***"
_WORDS = "token|secret|passw|credential|signature|key"
_SECRET = re.compile(rf"((?:{_WORDS})[\w-]*['\"]?\s*[=:]).*", re.IGNORECASE | re.DOTALL)
_PARAMETER = re.compile(rf"([?&;][\w-]*(?:{_WORDS})[\w-]*=)[^&;#\s]*", re.IGNORECASE)
_LOGIN = re.compile(r"://[^/\s]+@")
# Not `tokenizer` or `key_dim`: commands that use the model need them.
_NAME = re.compile(
    r"(?:.*[_-])?(?:token|secret|password|passwd|credentials?|(?:api|access|private)[_-]?key)",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Return NAME=VALUE or the like without the value of a secret, and logins in addresses."""
    return _LOGIN.sub(f"://{_HIDDEN}@", _SECRET.sub(rf"\1{_HIDDEN}", text))


def redacted(value: Any, name: str = "") -> Any:
    """Return options as they are recorded, in JSON: an Enum as its name, and a path as text.

    A text is hidden if its option is named like a secret; in an address, only its login and the
    parameters named like one.
    """
    if isinstance(value, dict):
        return {str(key): redacted(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item, name) for item in value]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bool | int | float | None):
        return value
    text = str(value)
    if text and _NAME.fullmatch(name):
        return _HIDDEN
    address = _PARAMETER.sub(rf"\1{_HIDDEN}", text) if "://" in text else text
    return _LOGIN.sub(f"://{_HIDDEN}@", address)
