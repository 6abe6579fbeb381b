//! REST behind the HTTP parser: routes, keys in paths, query strings, conditions, cursors.
//!
//! No request makes a server error. A key in a path is what a plain decoder makes of it, can be read back under the
//! same path, and is gone after DELETE.
//!
//! Input: one byte for the method, the target, a line end, an `If-Match`, a line end, an `If-None-Match`, a line end,
//! the body.

#![no_main]

use std::cell::LazyCell;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use libfuzzer_sys::{Corpus, fuzz_target};
use tercet_common::PartitionId;
use tercet_frontend::Config;
use tercet_frontend::coordinator::{ScanFilter, ScanPosition};
use tercet_frontend::rest::fuzzing::Gateway;
use tercet_fuzz::store::{Store, VALUE_BYTES_MAX};

const KV: &str = "/api/kv/";

struct Server {
    store: Store,
    gateway: Gateway,
}

thread_local! {
    static SERVER: LazyCell<Server> = LazyCell::new(|| {
        let store = Store::default();
        let mut config = Config::new(Vec::new());
        config.protected_mode = false;
        config.value_bytes_max = VALUE_BYTES_MAX;
        let gateway = Gateway::new(&config, store.coordinator.clone());
        Server { store, gateway }
    });
}

fuzz_target!(|input: &[u8]| -> Corpus {
    let [method, rest @ ..] = input else { return Corpus::Reject };
    let mut parts = rest.splitn(4, |byte| *byte == b'\n');
    let mut part = || parts.next().unwrap_or_default();
    let (target, if_match, if_none_match, body) = (part(), part(), part(), part());
    let Ok(target) = Uri::try_from(target) else { return Corpus::Reject };
    let method = [Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::HEAD, Method::OPTIONS]
        [usize::from(*method % 6)]
    .clone();
    SERVER.with(|server| {
        server.store.clear();
        server.any(method, &target, if_match, if_none_match, body);
        server.store.clear();
        server.there_and_back(&target, body);
    });
    Corpus::Keep
});

impl Server {
    fn send(&self, request: Request<Body>) -> Response<Bytes> {
        let shown = format!("{} {}", request.method(), request.uri());
        let response =
            self.store.runtime.block_on(self.gateway.answer(request)).expect("memory does not break off");
        assert!(!response.status().is_server_error(), "{shown}: {response:?}");
        response
    }

    fn request(&self, method: Method, target: &Uri, body: &[u8]) -> Response<Bytes> {
        let mut request = Request::new(Body::from(body.to_vec()));
        *request.method_mut() = method;
        *request.uri_mut() = target.clone();
        self.send(request)
    }

    /// Any request at all.
    fn any(&self, method: Method, target: &Uri, if_match: &[u8], if_none_match: &[u8], body: &[u8]) {
        let mut request = Request::new(Body::from(body.to_vec()));
        *request.method_mut() = method;
        *request.uri_mut() = target.clone();
        for (name, value) in [(header::IF_MATCH, if_match), (header::IF_NONE_MATCH, if_none_match)] {
            if let (false, Ok(value)) = (value.is_empty(), HeaderValue::from_bytes(value)) {
                request.headers_mut().insert(name, value);
            }
        }
        self.send(request);
    }

    fn there_and_back(&self, target: &Uri, body: &[u8]) {
        let stored = self.request(Method::PUT, target, body);
        let expected = target.path().strip_prefix(KV).filter(|raw| !raw.is_empty()).and_then(decode);
        if !stored.status().is_success() {
            assert_eq!(self.keys(), [] as [Vec<u8>; 0], "refused with {}, but stored", stored.status());
            return;
        }
        let expected = expected.expect("only a sound path is stored under");
        assert_eq!(self.keys(), [expected]);
        let raw = target.path().trim_start_matches(KV);
        if raw != "workers" && !raw.starts_with("worker/") {
            let read = self.request(Method::GET, target, b"");
            assert_eq!(read.status(), StatusCode::OK);
            assert!(read.body().starts_with(&[b"Value: ", body, b" (Source: w1)"].concat()), "{read:?}");
        }
        assert_eq!(self.request(Method::DELETE, target, b"").status(), StatusCode::OK);
        assert_eq!(self.request(Method::DELETE, target, b"").status(), StatusCode::NOT_FOUND);
        assert_eq!(self.keys(), [] as [Vec<u8>; 0]);
    }

    fn keys(&self) -> Vec<Vec<u8>> {
        let from = ScanPosition::start_of(PartitionId::new(0).expect("there are partitions"));
        let filter = ScanFilter { limit: 10, with_data: false, expired_by: None };
        let page = self.store.runtime.block_on(self.store.coordinator.scan(from, filter));
        page.expect("memory does not fail").rows.iter().map(|row| row.key.as_bytes().to_vec()).collect()
    }
}

/// `%XX` to bytes, once; `None` for a broken escape.
fn decode(raw: &str) -> Option<Vec<u8>> {
    let (mut key, mut rest) = (Vec::new(), raw.as_bytes());
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            key.push(*first);
            continue;
        }
        let ([high, low], tail) = rest.split_first_chunk()?;
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        key.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
        rest = tail;
    }
    Some(key)
}
