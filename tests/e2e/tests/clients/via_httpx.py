"""Python's httpx, through endpoints (HTTP/1.1 and HTTP/2) and through the forward proxy, many requests at once."""

import asyncio
import hashlib
import os

import httpx

ENV = os.environ
KEY = (ENV["CLIENT_ID"], ENV["CLIENT_SECRET"])
ALICE = ("alice", "wonder:land")
BODY, BODY_BYTES, BODY_SHA256 = ENV["BODY"], int(ENV["BODY_BYTES"]), ENV["BODY_SHA256"]
RECEIVED = {"received": BODY_BYTES, "sha256": BODY_SHA256}
USUAL = {"verify": ENV["CA"], "timeout": 20, "trust_env": False, "follow_redirects": True}


def proxied(key):
    """Everything by the proxy, with this key. As a mount: the parameter for it has changed its name since."""
    proxy = httpx.Proxy(f"http://{ENV['PROXY']}", auth=key)
    transport = httpx.AsyncHTTPTransport(proxy=proxy, verify=ENV["CA"])
    return httpx.AsyncClient(mounts={"all://": transport}, **USUAL)


def equal(found, wanted):
    assert found == wanted, f"{found!r} is not {wanted!r}"


async def pieces_of_body():
    """Without a length: sent chunked."""
    with open(BODY, "rb") as file:
        while piece := file.read(50_000):
            yield piece


async def ask_target(client, url, version):
    """What every way does for the target."""
    small = await client.get(f"{url}/small")
    equal(small.http_version, version)
    equal(small.json(), {"id": 4711, "state": "closed", "text": "x" * 162})

    async def download(path):
        whole = hashlib.sha256()
        async with client.stream("GET", f"{url}/{path}/{BODY_BYTES}") as answer:
            async for piece in answer.aiter_bytes():
                whole.update(piece)
        return whole.hexdigest()

    async def upload(method):
        return (await client.request(method, f"{url}/sink", content=pieces_of_body())).json()

    equal(await asyncio.gather(*map(download, ["bytes", "chunked"] * 3)), [BODY_SHA256] * 6)
    equal(await asyncio.gather(*map(upload, ["POST", "PUT"] * 3)), [RECEIVED] * 6)

    async def size_of(size):
        return len((await client.get(f"{url}/bytes/{size}")).content)

    sizes = list(range(20_000, 20_040))
    equal(await asyncio.gather(*map(size_of, sizes)), sizes)
    # One that leaves in the middle disturbs nobody. With HTTP/2, httpx neither resets such a stream nor gives
    # its bytes back to the connection's window, whatever the server: it stalls by itself.
    if version == "HTTP/1.1":
        async with client.stream("GET", f"{url}/chunked/50000000") as answer:
            await anext(answer.aiter_raw())
    moved = await client.get(f"{url}/redirect?to=small")
    equal((str(moved.url), moved.json()["id"]), (f"{url}/small", 4711))
    seen = (await client.get(f"{url}/headers")).text
    assert "authorization" not in seen and "\nproxy-" not in seen, seen


async def ask_web(client, url):
    """What every way does for the website."""
    equal((await client.get(f"{url}/login")).json(), ["session=s3", "theme=dark blue"])
    equal(dict(client.cookies), {"session": "s3", "theme": "dark blue"})
    with open(BODY, "rb") as file:
        content = file.read()
    answer = await client.post(f"{url}/moved", data={"text": "Grüße"}, files={"file": ("body.bin", content)})
    parts = [(part["name"], part["filename"], part["bytes"]) for part in answer.json()]
    equal(parts, [("text", None, 7), ("file", "body.bin", BODY_BYTES)])
    equal(answer.json()[1]["sha256"], BODY_SHA256)


async def through_endpoints(relay, http2):
    version = "HTTP/2" if http2 else "HTTP/1.1"
    async with httpx.AsyncClient(auth=KEY, http2=http2, **USUAL) as client:
        await ask_target(client, f"{relay}/t", version)
        await ask_web(client, f"{relay}/web")


async def through_the_proxy():
    async with proxied(KEY) as client:
        await ask_target(client, ENV["TARGET"], "HTTP/1.1")
        await ask_target(client, ENV["TARGET_TLS"], "HTTP/1.1")
        for web in (ENV["WEB"], ENV["WEB_TLS"]):
            client.cookies.clear()
            await ask_web(client, web)
        digest = httpx.DigestAuth(*ALICE)
        equal((await client.get(f"{ENV['WEB']}/digest", auth=digest)).json(), {"user": "alice"})
    async with proxied((ENV["CLIENT_ID"], "wrong")) as client:
        refused = await client.get(f"{ENV['TARGET']}/small")
        equal(refused.status_code, 407)
        assert refused.headers["proxy-authenticate"].startswith("Basic "), refused.headers
        try:
            await client.get(f"{ENV['TARGET_TLS']}/small")
        except httpx.ProxyError as error:
            assert "407" in str(error), error
        else:
            raise AssertionError("a wrong key let a connection through")


async def main():
    await through_endpoints(ENV["RELAY"], http2=False)
    await through_endpoints(ENV["RELAY_TLS"], http2=False)
    await through_endpoints(ENV["RELAY_TLS"], http2=True)
    await through_the_proxy()


asyncio.run(main())
print("done")
