// Chromium, through an endpoint and through the forward proxy.
//
//     node via_chromium.mjs endpoint|proxy
//
// `--proxy-server` takes no user and password: somebody must answer the proxy's challenge. Here that is this
// script, by the DevTools protocol, as a person would in the dialog. The protocol is spoken over two pipes
// (`--remote-debugging-pipe`), which needs no WebSocket library and no port.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { connect } from "node:tls";
import { readFileSync } from "node:fs";

const { RELAY_TLS, PROXY, CLIENT_ID, CLIENT_SECRET, CA, WEB, WEB_TLS, TARGET, TARGET_TLS } = process.env;
const { HOME, BODY_BYTES, BODY_SHA256 } = process.env;
const way = process.argv[2];

/** The hash by which Chromium is told to trust a server's key; `CA` vouches for the server. */
function keyOf(url) {
  const { hostname, port } = new URL(url);
  const servername = hostname === "localhost" ? hostname : "";
  return new Promise((resolve, reject) => {
    const socket = connect({ host: "127.0.0.1", port, servername, ca: readFileSync(CA) }, () => {
      const key = socket.getPeerX509Certificate().publicKey.export({ type: "spki", format: "der" });
      socket.destroy();
      resolve(createHash("sha256").update(key).digest("base64"));
    });
    socket.on("error", reject);
  });
}

class Browser {
  #process;
  #waiting = new Map();
  #number = 0;
  #session;
  #loaded = () => {};
  /** Every request for a user and password: who asked, and how. */
  challenges = [];

  constructor(args) {
    // Root has no sandbox, and a container's /dev/shm is small. Every page here is our own.
    const usual = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking"];
    const all = ["--remote-debugging-pipe", `--user-data-dir=${HOME}/chromium-${way}`, ...usual, ...args];
    const stdio = ["ignore", "inherit", "inherit", "pipe", "pipe"];
    this.#process = spawn("/usr/bin/chromium-headless-shell", all, { stdio });
    this.#process.on("error", (error) => { throw error; });
    this.#process.on("exit", (status, signal) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(`Chromium ended: ${status ?? signal}`));
    });
    let rest = Buffer.alloc(0);
    this.#process.stdio[4].on("data", (piece) => {
      rest = Buffer.concat([rest, piece]);
      for (let end; (end = rest.indexOf(0)) >= 0; rest = rest.subarray(end + 1)) {
        this.#take(JSON.parse(rest.subarray(0, end).toString()));
      }
    });
  }

  send(method, params = {}) {
    const id = ++this.#number;
    this.#process.stdio[3].write(JSON.stringify({ id, method, params, sessionId: this.#session }) + "\0");
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
  }

  #take({ id, method, params, result, error }) {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (error) waiting.reject(new Error(error.message));
    else if (waiting) waiting.resolve(result);
    else if (method === "Page.loadEventFired") this.#loaded();
    else if (method === "Fetch.requestPaused") this.#answer("Fetch.continueRequest", params);
    else if (method === "Fetch.authRequired") {
      const { source, scheme, origin } = params.authChallenge;
      this.challenges.push({ source, scheme, origin });
      // Who asks again and again does not take the answer.
      const response = this.challenges.length < 5 ? "ProvideCredentials" : "CancelAuth";
      const key = response === "CancelAuth" ? {} : { username: CLIENT_ID, password: CLIENT_SECRET };
      this.#answer("Fetch.continueWithAuth", params, { authChallengeResponse: { response, ...key } });
    }
  }

  /** A request that the page gave up meanwhile cannot be answered, and need not be. */
  #answer(method, { requestId }, more = {}) {
    this.send(method, { requestId, ...more }).catch((error) => console.error(`${method}: ${error.message}`));
  }

  async openTab() {
    const { targetId } = await this.send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await this.send("Target.attachToTarget", { targetId, flatten: true });
    this.#session = sessionId;
    await this.send("Page.enable");
    await this.send("Fetch.enable", { handleAuthRequests: true });
  }

  async open(url) {
    const loaded = new Promise((resolve) => (this.#loaded = resolve));
    const { errorText } = await this.send("Page.navigate", { url });
    assert.equal(errorText, undefined, url);
    await loaded;
  }

  /** What an expression in the page comes to. */
  async evaluate(expression) {
    const asked = { expression, awaitPromise: true, returnByValue: true };
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", asked);
    assert.equal(exceptionDetails, undefined, `${expression}: ${exceptionDetails?.exception?.description}`);
    return result.value;
  }

  async close() {
    const gone = new Promise((resolve) => this.#process.on("exit", resolve));
    await this.send("Browser.close");
    await gone;
  }
}

// What the code in the pages may use.
const IN_PAGE = `
  const hex = (bytes) => [...new Uint8Array(bytes)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const sha256 = async (response) => hex(await crypto.subtle.digest("SHA-256", await response.arrayBuffer()));
`;
const inPage = (code) => `(async () => { ${IN_PAGE} ${code} })()`;

/** The website's page: its script, its text, its cookies, a file, and a form with a file. */
async function visitWeb(browser, url) {
  // Cookies know no port: those of another visit would be sent, too.
  await browser.send("Network.clearBrowserCookies");
  await browser.open(`${url}/page`);
  assert.equal(await browser.evaluate("document.title"), "scripted");
  assert.equal(await browser.evaluate("document.querySelector('p').textContent"), "Grüße");
  assert.equal(await browser.evaluate("document.cookie"), "page=seen");
  const cookies = await browser.evaluate(inPage(`return (await fetch("login")).json();`));
  assert.deepEqual(cookies, ["page=seen", "session=s3", "theme=dark blue"]);
  assert.equal(await browser.evaluate(inPage(`return sha256(await fetch("files/body.bin"));`)), BODY_SHA256);
  const parts = await browser.evaluate(inPage(`
    const form = new FormData();
    form.append("text", "Grüße");
    form.append("file", await (await fetch("files/body.bin")).blob(), "body.bin");
    return (await fetch("moved", { method: "POST", body: form })).json();
  `));
  assert.deepEqual(parts.map(({ name, filename, bytes }) => [name, filename, bytes]), [
    ["text", null, 7],
    ["file", "body.bin", Number(BODY_BYTES)],
  ]);
  assert.equal(parts[1].sha256, BODY_SHA256);
  await talk(browser);
}

/** WebSocket: messages of text and of bytes come back, and it ends as it was ended. */
async function talk(browser) {
  const said = await browser.evaluate(inPage(`
    const socket = new WebSocket(new URL("socket", location).href.replace("http", "ws"));
    socket.binaryType = "arraybuffer";
    const said = [];
    return new Promise((resolve) => {
      socket.onopen = () => { socket.send("Grüße"); socket.send(new Uint8Array(60_000).fill(7)); };
      socket.onmessage = ({ data }) => {
        said.push(typeof data === "string" ? data : data.byteLength + " times " + new Uint8Array(data).at(-1));
        if (said.length === 2) socket.close(4321, "enough");
      };
      socket.onclose = ({ code, reason, wasClean }) => resolve([...said, code, reason, wasClean]);
    });
  `));
  assert.deepEqual(said, ["Grüße", "60000 times 7", 4321, "enough", true]);
}

/** The target: many requests at once, and what it sees of a request. */
async function visitTarget(browser, url) {
  await browser.open(`${url}/headers`);
  const seen = await browser.evaluate("document.body.textContent");
  assert.match(seen, /^GET \/headers HTTP\/1\.1\n/);
  assert.doesNotMatch(seen, /authorization|proxy-/i);
  const many = await browser.evaluate(inPage(`
    const all = Array.from({ length: 24 }, (_, n) => fetch("bytes/" + (10_000 + n)));
    return Promise.all(all.map(async (one) => (await (await one).arrayBuffer()).byteLength));
  `));
  assert.deepEqual(many, Array.from({ length: 24 }, (_, n) => 10_000 + n));
  const large = await browser.evaluate(inPage(`return sha256(await fetch("chunked/${BODY_BYTES}"));`));
  assert.equal(large, BODY_SHA256);
  return browser.evaluate("performance.getEntriesByType('resource').map((one) => one.nextHopProtocol)");
}

const ways = {
  async endpoint() {
    const browser = new Browser([`--ignore-certificate-errors-spki-list=${await keyOf(RELAY_TLS)}`]);
    await browser.openTab();
    await visitWeb(browser, `${RELAY_TLS}/web`);
    const protocols = await visitTarget(browser, `${RELAY_TLS}/t`);
    assert.deepEqual([...new Set(protocols)], ["h2"]);
    await browser.close();
    const origin = new URL(RELAY_TLS).origin;
    assert.deepEqual(browser.challenges, [{ source: "Server", scheme: "basic", origin }]);
  },

  async proxy() {
    const browser = new Browser([
      `--proxy-server=http://${PROXY}`,
      // Otherwise loopback never goes through a proxy.
      "--proxy-bypass-list=<-loopback>",
      `--ignore-certificate-errors-spki-list=${await keyOf(TARGET_TLS)},${await keyOf(WEB_TLS)}`,
    ]);
    await browser.openTab();
    await visitWeb(browser, WEB);
    await visitWeb(browser, WEB_TLS);
    await visitTarget(browser, TARGET);
    await visitTarget(browser, TARGET_TLS);
    await browser.close();
    const challenge = { source: "Proxy", scheme: "basic", origin: `http://${PROXY}` };
    assert.deepEqual(browser.challenges, [challenge]);
  },
};

await ways[way]();
console.log("done");
