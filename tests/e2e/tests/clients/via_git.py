"""git over HTTP, through endpoints and through the forward proxy. The website serves WEB_HOME/git/repo.git; clones are
made in the directory that this is started in."""

import base64
import os
import random
import subprocess
import sys

ENV = os.environ
KEY = f"{ENV['CLIENT_ID']}:{ENV['CLIENT_SECRET']}"
BASIC = "Basic " + base64.b64encode(KEY.encode()).decode()
PROXY = f"http.proxy=http://{KEY}@{ENV['PROXY']}"
SERVED = f"{ENV['WEB_HOME']}/git/repo.git"
# More than http.postBuffer, from which on git sends chunks.
BLOB_BYTES = 1_500_000


def private(url):
    """The same repository, for alice."""
    return url.replace("://", "://alice:wonder%3Aland@") + "/private-git/repo.git"


# Name, settings, URL.
WAYS = [
    ("endpoint", [f"http.extraHeader=Authorization: {BASIC}"], f"{ENV['RELAY_TLS']}/web/git/repo.git"),
    ("endpoint, alice", [f"http.extraHeader=Bridge-Authorization: {BASIC}"], private(f"{ENV['RELAY_TLS']}/web")),
    ("proxy", [PROXY], f"{ENV['WEB']}/git/repo.git"),
    ("proxy, alice", [PROXY], private(ENV["WEB"])),
    ("proxy, CONNECT", [PROXY], f"{ENV['WEB_TLS']}/git/repo.git"),
    ("proxy, CONNECT, alice", [PROXY], private(ENV["WEB_TLS"])),
]


def git(*args, settings=(), exit_code=0):
    """Runs git: what it writes."""
    usual = ["user.name=test", "user.email=test@example.com", "init.defaultBranch=main"]
    usual += ["core.compression=0", "maintenance.auto=false", f"http.sslCAInfo={ENV['CA']}", *settings]
    command = ["/usr/bin/git", *(word for setting in usual for word in ("-c", setting)), *args]
    surroundings = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0"}
    ran = subprocess.run(
        command, env={**ENV, **surroundings}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=40
    )
    assert ran.returncode == exit_code, f"{command}: exit code {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout.strip() if exit_code == 0 else ran.stderr


def equal(found, wanted):
    assert found == wanted, f"{found!r} is not {wanted!r}"


def commit(directory, name):
    """A file of random bytes, which do not get smaller on the way."""
    with open(f"{directory}/{name}", "wb") as file:
        file.write(random.Random(name).randbytes(BLOB_BYTES))
    git("-C", directory, "add", name)
    git("-C", directory, "commit", "--quiet", "--message", name)


def clone_and_push(name, settings, url):
    local = name.replace(", ", "-")
    git("clone", "--quiet", url, local, settings=settings)
    here = ["-C", local]
    equal(git(*here, "rev-parse", "HEAD"), git("-C", SERVED, "rev-parse", "main"))
    commit(local, f"{local}.bin")
    git(*here, "tag", local)
    git(*here, "push", "--quiet", "origin", "main", local, settings=settings)
    pushed = git(*here, "rev-parse", "HEAD")
    equal(git("-C", SERVED, "rev-parse", "main"), pushed)
    equal(git("ls-remote", url, "main", f"refs/tags/{local}", settings=settings).split("\n"), [
        f"{pushed}\trefs/heads/main",
        f"{pushed}\trefs/tags/{local}",
    ])
    # What somebody else pushed meanwhile.
    commit("elsewhere", f"after-{local}.bin")
    git("-C", "elsewhere", "pull", "--quiet", "--rebase", "origin", "main")
    git("-C", "elsewhere", "push", "--quiet", "origin", "main")
    git(*here, "pull", "--quiet", "--ff-only", "origin", "main", settings=settings)
    equal(git(*here, "rev-parse", "HEAD"), git("-C", SERVED, "rev-parse", "main"))
    with open(f"{local}/after-{local}.bin", "rb") as file:
        equal(file.read(), random.Random(f"after-{local}.bin").randbytes(BLOB_BYTES))


def keys():
    for url in (f"{ENV['RELAY']}/web/git/repo.git", private(ENV["RELAY"] + "/web")):
        said = git("ls-remote", url, exit_code=128)
        assert "could not read Username" in said or "Authentication failed" in said, said
    said = git("ls-remote", f"{ENV['WEB']}/git/repo.git", settings=[f"http.proxy=http://{ENV['PROXY']}"], exit_code=128)
    assert "407" in said, said


git("init", "--quiet", "--bare", SERVED)
git("-C", SERVED, "config", "http.receivepack", "true")
git("init", "--quiet", "elsewhere")
git("-C", "elsewhere", "remote", "add", "origin", SERVED)
commit("elsewhere", "first.bin")
git("-C", "elsewhere", "push", "--quiet", "origin", "main")
for name, settings, url in WAYS:
    print(name, file=sys.stderr)
    clone_and_push(name, settings, url)
git("-C", SERVED, "fsck", "--strict", "--no-progress")
keys()
print("done")
