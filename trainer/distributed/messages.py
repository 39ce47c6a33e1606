"""The messages of the rendezvous: sealed with the job's token, limited, checked field by field.

Anybody who reaches the port may write to it, and anybody may listen where process 0 is expected. A
message is one line: a seal (HMAC-SHA256), which only who knows the token of the job can make, and
named fields of text, encoded as those of a web form, so that nothing in it can be nested. Without
a token the seal proves nothing, and only the form is checked.
"""

import asyncio
import hmac
import re
from urllib.parse import parse_qsl, urlencode

Message = dict[str, str]

LONGEST = 8192  # bytes of a message
NUMBER, NONCE, TEXT = r"[1-9]\d{0,6}", "[0-9a-f]{32}", ".*"
# Kind of message -> field -> the pattern of its value; all text must be printable, too. An answer
# repeats the nonce of the hello, so a process ignores answers to others and to its earlier starts.
KINDS = {
    "hello": {"attempt": TEXT, "who": ".+", "process": NUMBER, "processes": NUMBER, "nonce": NONCE},
    "welcome": {"nonce": NONCE},
    "answer": {"nonce": NONCE, "kind": "go|PeerLost|ConfigError", "message": TEXT, "hint": TEXT},
}


def sealed(message: Message, token: str) -> bytes:
    """Return a message as it is sent."""
    body = urlencode(message, errors="replace").encode()
    return _seal(body, token) + b" " + body + b"\n"


def opened(line: bytes, kind: str, token: str) -> Message:
    """Return the fields of a message of this kind, given as a line without its end.

    Raises:
        ValueError: the line is no such message, or was sealed with another token.
    """
    seal, _, body = line.partition(b" ")
    if not hmac.compare_digest(seal, _seal(body, token)):
        raise ValueError("it does not know the token of this job")
    message, fields = dict(parse_qsl(body.decode(), keep_blank_values=True)), KINDS[kind]
    if message.keys() != fields.keys() or not all(
        value.isprintable() and re.fullmatch(fields[name], value, re.ASCII)
        for name, value in message.items()
    ):
        raise ValueError("it sends something else than expected")
    return message


def _seal(body: bytes, token: str) -> bytes:
    return hmac.digest(token.encode(errors="surrogateescape"), body, "sha256").hex().encode()


async def receive(reader: asyncio.StreamReader, kind: str, token: str) -> Message:
    """Wait for the next message, and return its fields; the reader limits its length.

    Raises:
        OSError: the other side has left.
        ValueError: it sends something else than a message of this kind and token.
    """
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise ConnectionError("it closed the connection")
    return opened(line[:-1], kind, token)
