// Java's own HTTP client, through endpoints (HTTP/1.1, HTTP/2) and through the forward proxy. It sends a password
// only where it was asked for one.
//
//     java ViaJava.java

import java.io.InputStream;
import java.net.Authenticator;
import java.net.Authenticator.RequestorType;
import java.net.CookieManager;
import java.net.InetSocketAddress;
import java.net.PasswordAuthentication;
import java.net.ProxySelector;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpClient.Redirect;
import java.net.http.HttpClient.Version;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.MessageDigest;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HexFormat;
import java.util.Map;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

class ViaJava {
    static final Map<String, String> ENV = System.getenv();
    static final Path BODY = Path.of(ENV.get("BODY"));
    static final String BODY_SHA256 = ENV.get("BODY_SHA256");
    static final String RECEIVED =
            "{\"received\":" + ENV.get("BODY_BYTES") + ",\"sha256\":\"" + BODY_SHA256 + "\"}";
    static final String[] KEY = {ENV.get("CLIENT_ID"), ENV.get("CLIENT_SECRET")};
    static final String[] ALICE = {"alice", "wonder:land"};
    static final Duration WITHIN = Duration.ofSeconds(20);

    public static void main(String[] args) throws Exception {
        // Otherwise it sends no password by Basic to a proxy that it asks for a tunnel.
        System.setProperty("jdk.http.auth.tunneling.disabledSchemes", "");
        throughEndpoints(ENV.get("RELAY"), Version.HTTP_1_1, Version.HTTP_1_1);
        // Without TLS it asks for an upgrade to HTTP/2, which the relay may leave unanswered.
        throughEndpoints(ENV.get("RELAY"), Version.HTTP_2, Version.HTTP_1_1);
        throughEndpoints(ENV.get("RELAY_TLS"), Version.HTTP_1_1, Version.HTTP_1_1);
        throughEndpoints(ENV.get("RELAY_TLS"), Version.HTTP_2, Version.HTTP_2);
        throughTheProxy();
        System.out.println("done");
    }

    static void throughEndpoints(String relay, Version asked, Version spoken) throws Exception {
        HttpClient client = client().version(asked).authenticator(answering(null, KEY)).build();
        askTarget(client, relay + "/t", spoken);
        askWeb(client, relay + "/web");
        // The target's own user, and the relay's key beside it.
        String key = "Basic " + Base64.getEncoder().encodeToString(String.join(":", KEY).getBytes());
        HttpClient alice = client().version(asked).authenticator(answering(null, ALICE)).build();
        HttpRequest both = request(relay + "/web/private").header("Bridge-Authorization", key).build();
        equal(text(alice, both), "{\"user\": \"alice\"}");
        HttpResponse<String> keyless =
                client().version(asked).build().send(request(relay + "/t/small").build(), BodyHandlers.ofString());
        equal(keyless.statusCode(), 401);
        equal(keyless.headers().firstValue("www-authenticate").get().startsWith("Basic "), true);
    }

    static void throughTheProxy() throws Exception {
        String[] proxy = ENV.get("PROXY").split(":");
        ProxySelector all = ProxySelector.of(new InetSocketAddress(proxy[0], Integer.parseInt(proxy[1])));
        for (Version asked : Version.values()) {
            HttpClient client =
                    client().version(asked).proxy(all).authenticator(answering(KEY, ALICE)).build();
            askTarget(client, ENV.get("TARGET"), Version.HTTP_1_1);
            askTarget(client, ENV.get("TARGET_TLS"), Version.HTTP_1_1);
            askWeb(client, ENV.get("WEB"));
            askWeb(client, ENV.get("WEB_TLS"));
            // Two challenges, one after the other: the proxy's and the target's.
            HttpClient fresh =
                    client().version(asked).proxy(all).authenticator(answering(KEY, ALICE)).build();
            equal(text(fresh, request(ENV.get("WEB") + "/private").build()), "{\"user\": \"alice\"}");
            // The challenge comes before the body that was held back.
            HttpClient holding =
                    client().version(asked).proxy(all).authenticator(answering(KEY, ALICE)).build();
            HttpRequest.Builder held = request(ENV.get("TARGET") + "/sink").expectContinue(true);
            equal(text(holding, held.POST(BodyPublishers.ofFile(BODY)).build()), RECEIVED);
            HttpClient keyless = client().version(asked).proxy(all).build();
            for (String target : new String[] {ENV.get("TARGET"), ENV.get("TARGET_TLS")}) {
                HttpResponse<String> refused =
                        keyless.send(request(target + "/small").build(), BodyHandlers.ofString());
                equal(refused.statusCode(), 407);
                equal(refused.headers().firstValue("proxy-authenticate").get().startsWith("Basic "), true);
            }
        }
    }

    /** What every way does for the target. */
    static void askTarget(HttpClient client, String url, Version spoken) throws Exception {
        HttpResponse<String> small = client.send(request(url + "/small").build(), BodyHandlers.ofString());
        equal(small.statusCode(), 200);
        equal(small.version(), spoken);
        equal(small.body(), "{\"id\":4711,\"state\":\"closed\",\"text\":\"" + "x".repeat(162) + "\"}");
        for (String path : new String[] {"/bytes/", "/chunked/"}) {
            HttpRequest download = request(url + path + ENV.get("BODY_BYTES")).build();
            equal(sha256(client.send(download, BodyHandlers.ofInputStream()).body()), BODY_SHA256);
        }
        HttpRequest head = request(url + "/bytes/1000").method("HEAD", BodyPublishers.noBody()).build();
        HttpResponse<String> answer = client.send(head, BodyHandlers.ofString());
        equal(answer.headers().firstValue("content-length").get() + answer.body(), "1000");
        for (int status : new int[] {204, 304, 404, 500}) {
            HttpRequest asked = request(url + "/status/" + status).build();
            equal(client.send(asked, BodyHandlers.discarding()).statusCode(), status);
        }
        equal(text(client, request(url + "/sink").POST(BodyPublishers.ofFile(BODY)).build()), RECEIVED);
        HttpRequest unknownLength = request(url + "/sink").PUT(BodyPublishers.ofInputStream(() -> open())).build();
        equal(text(client, unknownLength), RECEIVED);
        if (spoken == Version.HTTP_1_1) {
            // In HTTP/2 the relay's library sends no 100, and this client waits for one for ever.
            HttpRequest.Builder expecting = request(url + "/sink").expectContinue(true);
            equal(text(client, expecting.POST(BodyPublishers.ofFile(BODY)).build()), RECEIVED);
        }
        equal(text(client, request(url + "/redirect?to=small").build()), small.body());
        String seen = text(client, request(url + "/headers?a=%2F&b=").header("X-Own", "1").build());
        equal(seen.startsWith("GET /headers?a=%2F&b= HTTP/1.1\n"), true);
        equal(seen.contains("\nx-own: 1\n"), true);
        equal(seen.contains("authorization") || seen.contains("\nproxy-"), false);

        var waiting = new ArrayList<java.util.concurrent.CompletableFuture<HttpResponse<byte[]>>>();
        for (int n = 0; n < 40; n++) {
            HttpRequest one = request(url + "/bytes/" + (20_000 + n)).build();
            waiting.add(client.sendAsync(one, BodyHandlers.ofByteArray()));
        }
        for (int n = 0; n < 40; n++) {
            equal(waiting.get(n).get().body().length, 20_000 + n);
        }
    }

    /** What every way does for the website. */
    static void askWeb(HttpClient client, String url) throws Exception {
        String cookies = "[\"session=s3\", \"theme=dark blue\"]";
        equal(text(client, request(url + "/login").build()), cookies);
        equal(text(client, request(url + "/cookies").build()), cookies);
        String form = "--x\r\nContent-Disposition: form-data; name=\"text\"\r\n\r\nagain\r\n--x--\r\n";
        HttpRequest.Builder moved = request(url + "/moved").header("Content-Type", "multipart/form-data; boundary=x");
        String part = text(client, moved.POST(BodyPublishers.ofString(form)).build());
        equal(part.startsWith("[{\"bytes\": 5, ") && part.contains("\"name\": \"text\""), true);
        HttpRequest range = request(url + "/files/body.bin").header("Range", "bytes=1000000-1000500").build();
        HttpResponse<byte[]> ranged = client.send(range, BodyHandlers.ofByteArray());
        equal(ranged.statusCode(), 206);
        byte[] wanted = java.util.Arrays.copyOfRange(Files.readAllBytes(BODY), 1_000_000, 1_000_501);
        equal(java.util.Arrays.equals(ranged.body(), wanted), true);
    }

    static HttpClient.Builder client() throws Exception {
        KeyStore roots = KeyStore.getInstance(KeyStore.getDefaultType());
        roots.load(null, null);
        try (InputStream file = Files.newInputStream(Path.of(ENV.get("CA")))) {
            roots.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(roots);
        SSLContext tls = SSLContext.getInstance("TLS");
        tls.init(null, trust.getTrustManagers(), null);
        return HttpClient.newBuilder()
                .sslContext(tls)
                .connectTimeout(WITHIN)
                .followRedirects(Redirect.NORMAL)
                .cookieHandler(new CookieManager())
                .proxy(HttpClient.Builder.NO_PROXY);
    }

    /** Answers the proxy with one user and password, and a server with another. */
    static Authenticator answering(String[] proxy, String[] server) {
        return new Authenticator() {
            @Override
            protected PasswordAuthentication getPasswordAuthentication() {
                String[] user = getRequestorType() == RequestorType.PROXY ? proxy : server;
                return user == null ? null : new PasswordAuthentication(user[0], user[1].toCharArray());
            }
        };
    }

    static HttpRequest.Builder request(String url) {
        return HttpRequest.newBuilder(URI.create(url)).timeout(WITHIN);
    }

    static String text(HttpClient client, HttpRequest request) throws Exception {
        HttpResponse<String> answer = client.send(request, BodyHandlers.ofString(StandardCharsets.UTF_8));
        equal(answer.uri() + " " + answer.statusCode(), answer.uri() + " 200");
        return answer.body();
    }

    static InputStream open() {
        try {
            return Files.newInputStream(BODY);
        } catch (java.io.IOException error) {
            throw new java.io.UncheckedIOException(error);
        }
    }

    static String sha256(InputStream body) throws Exception {
        MessageDigest hash = MessageDigest.getInstance("SHA-256");
        byte[] piece = new byte[50_000];
        for (int read; (read = body.read(piece)) >= 0; ) {
            hash.update(piece, 0, read);
        }
        return HexFormat.of().formatHex(hash.digest());
    }

    static void equal(Object found, Object wanted) {
        if (!wanted.equals(found)) {
            throw new AssertionError(found + " is not " + wanted);
        }
    }
}
