"""curl, through endpoints (HTTP/1.1 and HTTP/2) and through the forward proxy. It writes into the directory that it
is started in."""

import base64
import hashlib
import json
import os
import subprocess
import sys

ENV = os.environ
KEY = f"{ENV['CLIENT_ID']}:{ENV['CLIENT_SECRET']}"
BASIC = base64.b64encode(KEY.encode()).decode()
PROXY = f"http://{KEY}@{ENV['PROXY']}"
ALICE = "alice:wonder:land"
BODY, BODY_BYTES, BODY_SHA256 = ENV["BODY"], int(ENV["BODY_BYTES"]), ENV["BODY_SHA256"]
RECEIVED = {"received": BODY_BYTES, "sha256": BODY_SHA256}
LARGE_BYTES, LARGE_SHA256 = int(ENV["LARGE_BYTES"]), ENV["LARGE_SHA256"]

# Name, arguments, base URL of the target, base URL of the website, version of HTTP.
TO_RELAY, TO_RELAY_TLS = (
    (f"{ENV[relay]}/t", f"{ENV[relay]}/web") for relay in ("RELAY", "RELAY_TLS")
)
WAYS = [
    ("endpoint", ["-u", KEY], *TO_RELAY, "1.1"),
    ("endpoint, TLS", ["-u", KEY, "--http1.1"], *TO_RELAY_TLS, "1.1"),
    ("endpoint, HTTP/2", ["-u", KEY, "--http2"], *TO_RELAY_TLS, "2"),
    ("endpoint, the other header", ["-H", f"Bridge-Authorization: Basic {BASIC}"], *TO_RELAY, "1.1"),
    ("proxy", ["-x", PROXY], ENV["TARGET"], ENV["WEB"], "1.1"),
    ("proxy, CONNECT", ["-x", PROXY, "--proxytunnel"], ENV["TARGET"], ENV["WEB"], "1.1"),
    ("proxy, CONNECT, TLS", ["-x", PROXY], ENV["TARGET_TLS"], ENV["WEB_TLS"], "1.1"),
]


def curl(*args, exit_code=(0,), stdin=None):
    """Runs curl: what it reports of each transfer. Header fields are in the file `head`."""
    usual = ["/usr/bin/curl", "-sS", "--max-time", "30", "--cacert", ENV["CA"], "-D", "head", "-w", "%{json}\\n"]
    command = [*usual, *args]
    with open(stdin or os.devnull, "rb") as file:
        ran = subprocess.run(command, stdin=file, capture_output=True, text=True, timeout=40)
    assert ran.returncode in exit_code, f"{command}: exit code {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return [json.loads(line) for line in ran.stdout.splitlines()]


def equal(found, wanted):
    assert found == wanted, f"{found!r} is not {wanted!r}"


def content(name="got"):
    with open(name, "rb") as file:
        return file.read()


def sha256(name="got"):
    return hashlib.sha256(content(name)).hexdigest()


def head():
    """The fields of the last head that came."""
    last = content("head").decode().strip().split("\r\n\r\n")[-1]
    fields = [line.split(": ", 1) for line in last.split("\r\n")[1:]]
    return {name.lower(): value for name, value in fields}


def get(*args, status=200):
    """One transfer that succeeds, into the file `got`."""
    (report,) = curl("-o", "got", *args)
    equal(report["http_code"], status)
    return report


def download(args, target, version):
    equal(get(*args, f"{target}/small")["http_version"], version)
    equal(json.loads(content()), {"id": 4711, "state": "closed", "text": "x" * 162})
    for path in ("bytes", "chunked"):
        get(*args, f"{target}/{path}/{LARGE_BYTES}")
        equal(sha256(), LARGE_SHA256)
    get(*args, "-I", f"{target}/bytes/1000")
    equal(head()["content-length"], "1000")
    for status in (204, 304, 404, 500):
        get(*args, f"{target}/status/{status}", status=status)
    moved = get(*args, "-L", f"{target}/redirect?to=small")
    equal((moved["num_redirects"], json.loads(content())["id"]), (1, 4711))


def upload(args, target, version):
    body = f"@{BODY}"
    # Of known length, and of unknown: HTTP/1.1 then sends chunks.
    uploads = [
        (["-T", BODY], None),
        (["-X", "POST", "-T", "-"], BODY),
        (["--data-binary", body], None),
        (["--data-binary", "@-"], BODY),
        (["-H", "Transfer-Encoding: chunked", "--data-binary", body], None),
    ]
    if version == "1.1":
        # Without the word to go on, curl would wait for longer than it may take. (HTTP/2's is not sent: the
        # relay's library has none, and curl then goes on after a second.)
        wait = ["-H", "Expect: 100-continue", "--expect100-timeout", "60"]
        uploads.append(([*wait, "--data-binary", body], None))
        uploads.append(([*wait, "-T", "-"], BODY))
    for how, stdin in uploads:
        (report,) = curl(*args, "-o", "got", *how, f"{target}/sink", stdin=stdin)
        equal((report["http_code"], json.loads(content())), (200, RECEIVED))
    get(*args, "-X", "POST", "-T", "large", f"{target}/sink")
    equal(json.loads(content()), {"received": LARGE_BYTES, "sha256": LARGE_SHA256})
    get(*args, "--data-binary", "@large", f"{target}/echo")
    equal(sha256(), LARGE_SHA256)


def headers(args, target):
    get(*args, "-H", "X-Own: 1", "-H", "X-Own: 2", "-b", "a=b; c=d", "-A", "me", f"{target}/headers?a=%2F&b=c+d&b=")
    first, *fields = content().decode().splitlines()
    equal(first, "GET /headers?a=%2F&b=c+d&b= HTTP/1.1")
    for field in ("x-own: 1", "x-own: 2", "cookie: a=b; c=d", "user-agent: me", "accept: */*"):
        assert field in fields, (field, fields)
    ours = [field for field in fields if "authorization" in field or field.startswith("proxy-")]
    equal(ours, [])


def several(args, target, version):
    # One after the other: on one connection.
    files = ["-o", "got", f"{target}/small", "-o", "got", f"{target}/bytes/1000000"]
    equal([report["num_connects"] for report in curl(*args, *files)], [1, 0])
    # At once.
    sizes = range(20_000, 20_040)
    at_once = ["--parallel", "--parallel-max", "20", "-o", "part_#1", f"{target}/bytes/[{sizes[0]}-{sizes[-1]}]"]
    reports = curl(*args, *at_once)
    equal({report["http_version"] for report in reports}, {version})
    equal([len(content(f"part_{size}")) for size in sizes], list(sizes))


def resume(args, web):
    if os.path.exists("file"):
        os.remove("file")
    url = f"{web}/files/body.bin"
    # 18 and 56 are what it says of HTTP/1.1 that breaks off, 92 of HTTP/2.
    curl(*args, "-o", "file", f"{url}?cut=1000000", exit_code=(18, 56, 92))
    had = len(content("file"))
    assert 0 < had <= 1_000_000, f"{had} bytes came before the transfer broke off"
    (report,) = curl(*args, "-C", "-", "-o", "file", url)
    equal((report["http_code"], report["size_download"]), (206, BODY_BYTES - had))
    equal(head()["content-range"], f"bytes {had}-{BODY_BYTES - 1}/{BODY_BYTES}")
    equal(sha256("file"), BODY_SHA256)


def website(args, web):
    get(*args, "-L", "-c", "cookies", "-b", "", f"{web}/login")
    equal(json.loads(content()), ["session=s3", "theme=dark blue"])
    get(*args, "-b", "cookies", f"{web}/cookies")
    equal(json.loads(content()), ["session=s3", "theme=dark blue"])
    get(*args, "-L", "-F", "text=Grüße", "-F", f"file=@{BODY};filename=body.bin", f"{web}/moved")
    parts = [(part["name"], part["filename"], part["bytes"], part["sha256"]) for part in json.loads(content())]
    equal(parts[0][:3], ("text", None, 7))
    equal(parts[1], ("file", "body.bin", BODY_BYTES, BODY_SHA256))
    get(*args, "--compressed", f"{web}/gzip")
    equal(head()["content-encoding"], "gzip")
    equal(json.loads(content()), {"text": "x" * 10_000})


def keys_of_endpoints():
    get(f"{ENV['RELAY']}/t/small", status=401)
    assert head()["www-authenticate"].startswith("Basic "), head()
    get("-u", f"{ENV['CLIENT_ID']}:wrong", f"{ENV['RELAY']}/t/small", status=401)
    # The relay's key, sent when it was asked for.
    get("--anyauth", "-u", KEY, f"{ENV['RELAY_TLS']}/t/small")
    # The target's own user, and the relay's key beside it.
    get("-H", f"Bridge-Authorization: Basic {BASIC}", "-u", ALICE, f"{ENV['RELAY']}/web/private")
    equal(json.loads(content()), {"user": "alice"})
    get("-H", f"Bridge-Authorization: Basic {BASIC}", f"{ENV['RELAY']}/web/private", status=401)
    equal(head()["www-authenticate"], 'Basic realm="web"')


def keys_of_the_proxy():
    for wrong in (f"http://{ENV['PROXY']}", f"http://{ENV['CLIENT_ID']}:wrong@{ENV['PROXY']}"):
        get("-x", wrong, f"{ENV['TARGET']}/small", status=407)
        assert head()["proxy-authenticate"].startswith("Basic "), head()
        (report,) = curl("-x", wrong, f"{ENV['TARGET_TLS']}/small", exit_code=(56,))
        equal((report["http_connect"], report["http_code"]), (407, 0))
        assert head()["proxy-authenticate"].startswith("Basic "), head()
    # The key, sent when it was asked for.
    asked = ["-x", f"http://{ENV['PROXY']}", "--proxy-anyauth", "--proxy-user", KEY]
    for target in (ENV["TARGET"], ENV["TARGET_TLS"]):
        get(*asked, f"{target}/bytes/{BODY_BYTES}")
        equal(sha256(), BODY_SHA256)
        get(*asked, "--data-binary", f"@{BODY}", f"{target}/sink")
        equal(json.loads(content()), RECEIVED)
    # The target's own user.
    for how, path in (("--basic", "private"), ("--digest", "digest")):
        for tunnel in ([], ["--proxytunnel"]):
            get("-x", PROXY, *tunnel, how, "-u", ALICE, f"{ENV['WEB']}/{path}?a=b")
            equal(json.loads(content()), {"user": "alice"})


def what_the_policy_refuses():
    get("-x", PROXY, "http://127.0.0.1:9/", status=403)
    equal(head()["bridge-error"], "refused_by_policy")
    (report,) = curl("-x", PROXY, "https://127.0.0.1:9/", exit_code=(56,))
    equal(report["http_connect"], 403)


for name, args, target, web, version in WAYS:
    print(name, file=sys.stderr)
    if not os.path.exists("large"):
        get(f"{ENV['TARGET']}/bytes/{LARGE_BYTES}")
        os.rename("got", "large")
    download(args, target, version)
    upload(args, target, version)
    headers(args, target)
    several(args, target, version)
    website(args, web)
    resume(args, web)
keys_of_endpoints()
keys_of_the_proxy()
what_the_policy_refuses()
print("done")
