//! HTTP as curl would do it.

use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode};

use super::DEADLINE;

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the answer is text")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Checks that this is a problem document (RFC 9457) of that status and name.
    pub(crate) fn assert_problem(&self, status: u16, name: &str) {
        let document = self.json();
        assert_eq!(self.status.as_u16(), status, "{document}");
        assert_eq!(self.header(CONTENT_TYPE.as_str()), Some("application/problem+json"), "{document}");
        assert_eq!(document["type"], format!("/problems/{name}"), "{document}");
        assert_eq!(document["status"], status, "{document}");
        assert!(document["title"].is_string() && document["detail"].is_string(), "{document}");
    }
}

pub(crate) fn client() -> reqwest::Client {
    // A connection lives in the runtime of one test, the client is shared by several: none is kept.
    let builder = tercet_harness::http::builder().pool_max_idle_per_host(0);
    builder.tls_certs_only([]).timeout(DEADLINE).build().expect("a plain client")
}

pub(crate) async fn send(request: reqwest::RequestBuilder) -> reqwest::Result<Answer> {
    let response = request.send().await?;
    let (status, headers) = (response.status(), response.headers().clone());
    Ok(Answer { status, headers, body: response.bytes().await?.to_vec() })
}

/// A client of one REST gateway.
#[derive(Clone, Debug)]
pub(crate) struct Rest {
    client: reqwest::Client,
    base: String,
}

impl Rest {
    pub(crate) fn new(address: std::net::SocketAddr) -> Self {
        Self { client: client(), base: format!("http://{address}") }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await.expect("the gateway answers")
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        send(self.request(Method::POST, path).body(body)).await.expect("the gateway answers")
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        send(self.request(Method::DELETE, path)).await.expect("the gateway answers")
    }
}

/// What an acknowledgement of the original API says: the replicas that were waited for, and the one that was not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Acknowledgement {
    pub(crate) synchronous: Vec<String>,
    pub(crate) asynchronous: Option<String>,
}

/// Takes an acknowledgement apart; anything but the words to the letter is a failure.
pub(crate) fn acknowledgement(done: &str, text: &str) -> Acknowledgement {
    let parse = || {
        let rest = text.strip_prefix(done)?.strip_prefix(" successfully. {Synchronous Replicas: [")?;
        let (synchronous, rest) = rest.split_once("]}, {Asynchronous Replica: ")?;
        let asynchronous = rest.strip_suffix('}')?;
        Some(Acknowledgement {
            synchronous: synchronous.split(", ").map(str::to_owned).collect(),
            asynchronous: (asynchronous != "None (Quorum fallback used)").then(|| asynchronous.to_owned()),
        })
    };
    parse().unwrap_or_else(|| panic!("not the acknowledgement: {text:?}"))
}

/// The value and the source of an answer of the original API.
pub(crate) fn value_and_source(text: &str) -> (String, String) {
    let parse = || {
        let (value, rest) = text.strip_prefix("Value: ")?.rsplit_once(" (Source: ")?;
        Some((value.to_owned(), rest.strip_suffix(')')?.to_owned()))
    };
    parse().unwrap_or_else(|| panic!("not a value with its source: {text:?}"))
}
