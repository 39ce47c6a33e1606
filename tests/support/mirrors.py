"""Servers of one file that behave well, or badly in one of many ways."""

import gzip
import http.server
import threading

CONTENTS = bytes(range(256)) * 200
BODY = gzip.compress(CONTENTS)


class Handler(http.server.BaseHTTPRequestHandler):
    """The first part of the path says how the server behaves."""

    def do_GET(self):
        behaviour = self.path.split("/")[1]
        self.server.requests.append(behaviour)
        getattr(self, behaviour)()

    def log_message(self, *_):
        pass

    def answer(self, body, length=None, status=200, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def good(self):
        self.answer(BODY)

    def unmeasured(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(BODY)

    def moved(self):
        self.answer(b"", status=302, Location="/good/file.gz")

    def moved_with_a_key(self):
        self.answer(b"", status=302, Location="http://127.0.0.1:1/file.gz?token=1")

    def missing(self):
        self.send_error(404)

    def truncated(self):
        self.answer(BODY[:100], length=len(BODY))

    def rude(self):
        self.wfile.write(b"I do not speak HTTP\r\n")

    def closing(self):
        pass

    def silent(self):
        self.server.closing.wait()

    def half(self):
        self.answer(BODY[:100], length=len(BODY))
        self.server.closing.wait()

    def other(self):
        self.answer(gzip.compress(b"other"))

    def endless(self):
        self.send_response(200)
        self.end_headers()
        while not self.server.closing.is_set():
            self.wfile.write(bytes(1 << 16))


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.closing = threading.Event()

    def handle_error(self, *_):
        pass  # clients that go away

    def url(self, behaviour):
        return f"http://127.0.0.1:{self.server_port}/{behaviour}"
