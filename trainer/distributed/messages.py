"""The messages of the rendezvous: sealed with the job's token, limited, checked field by field.

Anybody who reaches the port may write to it, and anybody may listen where process 0 is expected. A
message is one line: a seal (HMAC-SHA256), which only who knows the token of the job can make, and
named fields of text, encoded as those of a web form, so that nothing in it can be nested. Without
a token the seal proves nothing, and only the form is checked.
"""

import hmac
import re
import socket
import time
from contextlib import suppress
from urllib.parse import parse_qsl, urlencode

Message = dict[str, str]

LONGEST = 8192  # bytes of a message
NUMBER, NONCE, TEXT = r"[1-9]\d{0,6}", "[0-9a-f]{32}", ".*"
# Kind of message -> field -> what it has to look like; besides, all text is printable. The nonce
# is that of the hello: an answer to another process, or to an earlier start, is none to this one.
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
    """Return the fields of a message of this kind.

    Raises:
        ValueError: it is none, or was sealed with another token.
    """
    seal, _, body = line.partition(b" ")
    if len(line) > LONGEST or not hmac.compare_digest(seal, _seal(body, token)):
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


class Connection:
    """A connection to what may be another process of this run."""

    def __init__(self, connection: socket.socket, token: str) -> None:
        self.socket, self.since = connection, time.monotonic()
        self.hello: Message = {}  # who it is; empty: it has not said so
        self._token, self._data = token, b""

    def send(self, **fields: str) -> None:
        """Send a message."""
        self.socket.sendall(sealed(fields, self._token))

    def receive(self, kind: str) -> Message | None:
        """Return the next message, of this kind; None if it has not come yet.

        Raises:
            OSError: the other side has left.
            ValueError: it is no process of this job.
        """
        with suppress(BlockingIOError, TimeoutError):
            while b"\n" not in self._data and len(self._data) <= LONGEST:
                data = self.socket.recv(LONGEST)
                if not data:
                    raise ConnectionError("it closed the connection")
                self._data += data
        line, end, rest = self._data.partition(b"\n")
        if not end and len(line) <= LONGEST:
            return None
        self._data = rest
        return opened(line, kind, self._token)
