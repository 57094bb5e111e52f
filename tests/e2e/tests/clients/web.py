"""A website for the tests of clients: files with ranges, cookies, forms, passwords, git over HTTP.

    python3 web.py DIRECTORY [CERTIFICATE KEY]

It listens on a free port of loopback, with TLS if it has a certificate, and says which. DIRECTORY/files is what
/files/ serves, DIRECTORY/git what /git/ and, with a password, /private-git/ serve. The user is alice, her password
wonder:land.

| route                | does                                                                |
| -------------------- | ------------------------------------------------------------------- |
| /files/NAME          | a file, or one range of it; with ?cut=N it breaks off after N bytes |
| /login, /cookies     | sets two cookies and redirects to the other; what cookies came      |
| POST /form           | name, file name, length and SHA-256 of each part of a form          |
| POST /moved          | redirects to /form, where the same form is to be sent again         |
| /private, /digest    | who signed in, by Basic and by Digest                               |
| /gzip                | compressed, if the client takes that                                |
| /git/, /private-git/ | `git http-backend`                                                  |
| /socket              | WebSocket: sends back what comes                                    |
| /page, /script       | what the browser opens                                              |
"""

import base64
import gzip
import hashlib
import json
import os
import re
import ssl
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

USER, PASSWORD, REALM, NONCE = "alice", "wonder:land", "web", "0123456789abcdef"

PAGE = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><p>Grüße</p>
<script src="script"></script>"""
SCRIPT = """document.title = "scripted";"""


def md5(text):
    return hashlib.md5(text.encode()).hexdigest()


def parts_of(body, boundary):
    """The parts of a form: header fields as text, and content."""
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary.encode())[1:-1]:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        yield head.decode(), content


class Web(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # A head and its content leave in two pieces: the second does not wait for the first one's ACK.
    disable_nagle_algorithm = True

    def any_method(self):
        self.content = self.read_content()
        self.url = urlsplit(self.path)
        path = unquote(self.url.path)
        route = path.split("/")[1]
        # An error in here closes the connection without an answer.
        getattr(self, "answer_" + route.replace("-", "_"), self.answer_nothing)(path)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = any_method

    def read_content(self):
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(pieces)

    def answer(self, status, content=b"", cut=None, **fields):
        if not isinstance(content, bytes):
            fields.setdefault("content_type", "application/json")
            content = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        for name, values in fields.items():
            for value in [values] if isinstance(values, str) else values:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:cut])
            self.close_connection |= cut is not None

    def answer_nothing(self, path):
        self.answer(404, {"missing": path})

    def answer_files(self, path):
        with open(os.path.join(HOME, "files", os.path.basename(path)), "rb") as file:
            content = file.read()
        fields = {
            "accept_ranges": "bytes",
            "etag": '"%s"' % hashlib.sha256(content).hexdigest()[:16],
            "content_type": "application/octet-stream",
        }
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        if not wanted:
            cut = re.fullmatch(r"cut=(\d+)", self.url.query)
            return self.answer(200, content, int(cut[1]) if cut else None, **fields)
        first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
        if first >= len(content):
            return self.answer(416, content_range=f"bytes */{len(content)}")
        fields["content_range"] = f"bytes {first}-{last}/{len(content)}"
        self.answer(206, content[first : last + 1], **fields)

    def answer_login(self, _path):
        cookies = ["session=s3; Path=/; HttpOnly", "theme=dark blue; Path=/"]
        self.answer(302, location="cookies", set_cookie=cookies)

    def answer_cookies(self, _path):
        cookies = [one.strip() for one in self.headers.get("cookie", "").split(";")]
        self.answer(200, sorted(cookies))

    def answer_form(self, _path):
        boundary = self.headers.get_boundary()
        found = []
        for head, content in parts_of(self.content, boundary):
            part = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for key in ("name", "filename"):
                value = re.search(rf'[; ]{key}="([^"]*)"', head)
                part[key] = value and value[1]
            found.append(part)
        self.answer(200, found)

    def answer_moved(self, _path):
        self.answer(307, location="form")

    def signed_in(self):
        wanted = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get_all("authorization", []) == ["Basic " + wanted]:
            return True
        self.answer(401, www_authenticate=f'Basic realm="{REALM}"')
        return False

    def answer_private(self, _path):
        if self.signed_in():
            self.answer(200, {"user": USER})

    def answer_digest(self, _path):
        given = self.headers.get("authorization", "")
        given = {key: plain or quoted for key, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|([^\s,]+))', given)}
        if given.get("username") == USER:
            # RFC 7616, with MD5 and qop=auth. The URI that the client signed is the one that came.
            secret = md5(f"{USER}:{REALM}:{PASSWORD}")
            signed = md5(f"{self.command}:{self.path}")
            middle = f"{NONCE}:{given['nc']}:{given['cnonce']}:auth"
            if given["response"] == md5(f"{secret}:{middle}:{signed}"):
                return self.answer(200, {"user": USER})
        self.answer(401, www_authenticate=f'Digest realm="{REALM}", qop="auth", nonce="{NONCE}"')

    def answer_gzip(self, _path):
        content = json.dumps({"text": "x" * 10_000}).encode()
        if "gzip" not in self.headers.get("accept-encoding", ""):
            return self.answer(200, content)
        self.answer(200, gzip.compress(content), content_encoding="gzip", vary="accept-encoding")

    def answer_page(self, _path):
        self.answer(200, PAGE.encode(), content_type="text/html", set_cookie="page=seen; Path=/")

    def answer_script(self, _path):
        self.answer(200, SCRIPT.encode(), content_type="text/javascript")

    def answer_socket(self, _path):
        """WebSocket (RFC 6455): sends back every message, up to 64 KiB and in one frame."""
        key = self.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("connection", "upgrade")
        self.send_header("upgrade", "websocket")
        self.send_header("sec-websocket-accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.close_connection = True
        while head := self.rfile.read(2):
            size = head[1] & 127
            sized = self.rfile.read(2) if size == 126 else b""
            mask = self.rfile.read(4)
            masked = self.rfile.read(int.from_bytes(sized, "big") if sized else size)
            content = bytes(byte ^ mask[at % 4] for at, byte in enumerate(masked))
            self.wfile.write(bytes([head[0], size]) + sized + content)
            if head[0] & 15 == 8:
                return

    def answer_private_git(self, path):
        if self.signed_in():
            self.answer_git(path.replace("/private-git/", "/git/"), REMOTE_USER=USER)

    def answer_git(self, path, **more):
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_PROJECT_ROOT": HOME,
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": self.url.query,
            "REMOTE_ADDR": self.client_address[0],
            "CONTENT_TYPE": self.headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(self.content)),
            "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
            "GIT_PROTOCOL": self.headers.get("git-protocol", ""),
            **more,
        }
        run = subprocess.run(
            ["/usr/bin/git", "http-backend"], env=environment, input=self.content, stdout=subprocess.PIPE, check=True
        )
        head, _, content = run.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = fields.pop("Status", "200").split()[0]
        self.answer(int(status), content, **fields)


HOME, *TLS = sys.argv[1:]
# A browser opens several connections at once.
ThreadingHTTPServer.request_queue_size = 64
server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
if TLS:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*TLS)
    # The handshake is for the connection's own thread.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
