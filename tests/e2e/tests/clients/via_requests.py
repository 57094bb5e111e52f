"""Python's requests, through endpoints and through the forward proxy."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import requests
from requests.auth import HTTPBasicAuth, HTTPDigestAuth

ENV = os.environ
KEY = HTTPBasicAuth(ENV["CLIENT_ID"], ENV["CLIENT_SECRET"])
ALICE = ("alice", "wonder:land")
PROXY = f"http://{ENV['CLIENT_ID']}:{ENV['CLIENT_SECRET']}@{ENV['PROXY']}"
BODY, BODY_BYTES, BODY_SHA256 = ENV["BODY"], int(ENV["BODY_BYTES"]), ENV["BODY_SHA256"]
RECEIVED = {"received": BODY_BYTES, "sha256": BODY_SHA256}
# For connecting, and between two pieces.
TIMEOUT = 20


def session(**settings):
    """A session that does not look at the environment."""
    made = requests.Session()
    made.trust_env = False
    made.verify = ENV["CA"]
    for name, value in settings.items():
        setattr(made, name, value)
    return made


def equal(found, wanted):
    assert found == wanted, f"{found!r} is not {wanted!r}"


def basic(user):
    """The value of the header field."""
    return user(requests.Request("GET", "http://any/").prepare()).headers["Authorization"]


def sha256(pieces):
    whole = hashlib.sha256()
    for piece in pieces:
        whole.update(piece)
    return whole.hexdigest()


def pieces_of_body():
    """Without a length: sent chunked."""
    with open(BODY, "rb") as file:
        while piece := file.read(50_000):
            yield piece


def ask_target(client, url, chunked=None):
    """What every way does for the target; `chunked` are header fields for a body without a length."""

    def ask(method, path, **options):
        answer = client.request(method, url + path, timeout=TIMEOUT, **options)
        answer.raise_for_status()
        return answer

    equal(ask("GET", "/small").json(), {"id": 4711, "state": "closed", "text": "x" * 162})
    for path in ("bytes", "chunked"):
        with ask("GET", f"/{path}/{BODY_BYTES}", stream=True) as answer:
            equal(sha256(answer.iter_content(70_000)), BODY_SHA256)
    head = ask("HEAD", "/bytes/1000")
    equal((head.headers["content-length"], head.content), ("1000", b""))
    for status in (204, 304, 404, 500):
        equal(client.get(f"{url}/status/{status}", timeout=TIMEOUT).status_code, status)
    with open(BODY, "rb") as file:
        equal(ask("POST", "/sink", data=file).json(), RECEIVED)
    equal(ask("PUT", "/sink", data=pieces_of_body(), headers=chunked).json(), RECEIVED)
    equal(ask("PATCH", "/echo", json={"text": "Grüße"}).json(), {"text": "Grüße"})
    moved = ask("GET", "/redirect?to=small")
    equal((moved.url, moved.json()["id"], len(moved.history)), (f"{url}/small", 4711, 1))
    for method in ("GET", "DELETE", "OPTIONS", "PROPFIND"):
        first, *fields = ask(method, "/headers?a=%2F&b=", headers={"X-Own": "1"}).text.splitlines()
        equal(first, f"{method} /headers?a=%2F&b= HTTP/1.1")
        assert "x-own: 1" in fields, fields
        assert not any("authorization" in field or field.startswith("proxy-") for field in fields), fields
    with ThreadPoolExecutor(8) as pool:
        sizes = range(20_000, 20_040)
        answers = pool.map(lambda size: ask("GET", f"/bytes/{size}"), sizes)
        equal([len(answer.content) for answer in answers], list(sizes))


def ask_web(client, url):
    """What every way does for the website."""
    equal(client.get(f"{url}/login", timeout=TIMEOUT).json(), ["session=s3", "theme=dark blue"])
    equal(dict(client.cookies), {"session": "s3", "theme": "dark blue"})
    equal(client.get(f"{url}/cookies", timeout=TIMEOUT).json(), ["session=s3", "theme=dark blue"])
    with open(BODY, "rb") as file:
        form = {"text": (None, "Grüße"), "file": ("body.bin", file), "empty": ("empty.txt", b"")}
        parts = client.post(f"{url}/moved", files=form, timeout=TIMEOUT).json()
    sizes = [(part["name"], part["filename"], part["bytes"]) for part in parts]
    equal(sizes, [("text", None, 7), ("file", "body.bin", BODY_BYTES), ("empty", "empty.txt", 0)])
    equal(parts[1]["sha256"], BODY_SHA256)
    compressed = client.get(f"{url}/gzip", timeout=TIMEOUT)
    equal(compressed.headers["content-encoding"], "gzip")
    equal(compressed.json(), {"text": "x" * 10_000})
    with open(BODY, "rb") as file:
        file.seek(1_000_000)
        wanted = file.read(501)
    ranged = client.get(f"{url}/files/body.bin", headers={"Range": "bytes=1000000-1000500"}, timeout=TIMEOUT)
    equal((ranged.status_code, ranged.content), (206, wanted))
    equal(ranged.headers["content-range"], f"bytes 1000000-1000500/{BODY_BYTES}")


def through_endpoints(relay):
    with session(auth=KEY) as client:
        ask_target(client, f"{relay}/t")
        ask_web(client, f"{relay}/web")
    # The target's own user, and the relay's key beside it.
    with session(auth=ALICE, headers={"Bridge-Authorization": basic(KEY)}) as client:
        equal(client.get(f"{relay}/web/private", timeout=TIMEOUT).json(), {"user": "alice"})
    with session() as client:
        keyless = client.get(f"{relay}/t/small", timeout=TIMEOUT)
        equal(keyless.status_code, 401)
        assert keyless.headers["www-authenticate"].startswith("Basic "), keyless.headers


def through_the_proxy():
    with session(proxies={"http": PROXY, "https": PROXY}) as client:
        # Before 2.30, requests forgets the proxy's password where a body has no length and there is no TLS.
        ask_target(client, ENV["TARGET"], {"Proxy-Authorization": basic(KEY)})
        ask_target(client, ENV["TARGET_TLS"])
        for web in (ENV["WEB"], ENV["WEB_TLS"]):
            client.cookies.clear()
            ask_web(client, web)
        for path, user in (("private", HTTPBasicAuth(*ALICE)), ("digest", HTTPDigestAuth(*ALICE))):
            answer = client.get(f"{ENV['WEB']}/{path}?a=b", auth=user, timeout=TIMEOUT)
            equal(answer.json(), {"user": "alice"})
    for bad in (f"http://{ENV['PROXY']}", f"http://{ENV['CLIENT_ID']}:wrong@{ENV['PROXY']}"):
        with session(proxies={"http": bad, "https": bad}) as client:
            refused = client.get(f"{ENV['TARGET']}/small", timeout=TIMEOUT)
            equal(refused.status_code, 407)
            assert refused.headers["proxy-authenticate"].startswith("Basic "), refused.headers
            try:
                client.get(f"{ENV['TARGET_TLS']}/small", timeout=TIMEOUT)
            except requests.exceptions.ProxyError as error:
                assert "407" in str(error), error
            else:
                raise AssertionError(f"{bad} let a connection through")


through_endpoints(ENV["RELAY"])
through_endpoints(ENV["RELAY_TLS"])
through_the_proxy()
print("done")
