//! One bounded request, for `tercet status`, health checks and the supervisor's probes.

use std::time::Duration;

use anyhow::Context;

/// A status page is kilobytes; more than this is not one.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Makes `ring` the TLS provider of the process. Before any client is built; again is harmless.
pub(crate) fn install_tls() {
    // An error means that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A client; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Client(reqwest::Client);

impl Client {
    /// For `https:` with the machine's certificates. For plain HTTP, which is our own parts, without a proxy and
    /// without certificates, which a bare container may not even have.
    pub(crate) fn new(url: &str) -> anyhow::Result<Self> {
        install_tls();
        let mut builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        if !url.starts_with("https:") {
            builder = builder.no_proxy().tls_certs_only([]);
        }
        builder.build().map(Self).context("building the HTTP client")
    }

    /// Asks `url`; the answer's status and body, whatever the status.
    pub(crate) async fn get(
        &self,
        url: &str,
        bearer: Option<&str>,
        timeout: Duration,
    ) -> anyhow::Result<(u16, Vec<u8>)> {
        self.send(reqwest::Method::GET, url, bearer, timeout).await
    }

    /// The same with another method, without a body.
    pub(crate) async fn send(
        &self,
        method: reqwest::Method,
        url: &str,
        bearer: Option<&str>,
        timeout: Duration,
    ) -> anyhow::Result<(u16, Vec<u8>)> {
        let mut request = self.0.request(method, url).timeout(timeout);
        if let Some(token) = bearer {
            request = request.bearer_auth(token);
        }
        let mut response = request.send().await.map_err(|error| plain(&error))?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| plain(&error))? {
            anyhow::ensure!(
                body.len() + chunk.len() <= BODY_BYTES_MAX,
                "the answer is larger than {BODY_BYTES_MAX} bytes"
            );
            body.extend_from_slice(&chunk);
        }
        Ok((status, body))
    }
}

/// Asks `url` once.
pub(crate) async fn get(
    url: &str,
    bearer: Option<&str>,
    timeout: Duration,
) -> anyhow::Result<(u16, Vec<u8>)> {
    Client::new(url)?.get(url, bearer, timeout).await
}

/// The innermost cause says it best: "Connection refused", not "error sending request".
fn plain(error: &reqwest::Error) -> anyhow::Error {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    anyhow::anyhow!("{cause}")
}

/// `http://` in front of a bare `host:port`, and no slash behind.
pub(crate) fn base_url(text: &str) -> String {
    let text = text.trim_end_matches('/');
    if text.contains("://") { text.to_owned() } else { format!("http://{text}") }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn addresses_become_urls() {
        assert_eq!(base_url("127.0.0.1:8080"), "http://127.0.0.1:8080");
        assert_eq!(base_url("https://kv.example/"), "https://kv.example");
    }

    #[tokio::test]
    async fn carries_the_token_and_returns_any_status() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/readyz", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 3\r\n\r\nno!";
            stream.write_all(answer).await.unwrap();
            String::from_utf8(request).unwrap()
        });
        let answer = get(&url, Some("t0ken"), Duration::from_secs(30)).await.unwrap();
        assert_eq!(answer, (503, b"no!".to_vec()));
        assert!(server.await.unwrap().to_lowercase().contains("authorization: bearer t0ken"));
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_plainly() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error =
            get(&format!("http://127.0.0.1:{port}/"), None, Duration::from_secs(30)).await.unwrap_err();
        assert!(error.to_string().to_lowercase().contains("refused"), "{error}");
    }
}
