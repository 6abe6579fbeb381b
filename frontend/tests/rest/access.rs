//! Who may ask.

use http::Request;
use tercet_frontend::config::Secret;

use crate::harness::{start, start_with};

#[tokio::test]
async fn a_password_guards_all_but_health() {
    let gateway = start_with("127.0.0.1:0", |c| c.password = Some(Secret::new("hunter2")), None).await;
    for target in [
        "/",
        "/metrics",
        "/admin/status",
        "/problems",
        "/api/kv/k",
        "/api/kv/workers",
        "/api/kv/worker/w1",
        "/nowhere",
    ] {
        let refused = gateway.get(target).await;
        refused.problem(401, "unauthorized");
        assert!(refused.header("www-authenticate").unwrap().starts_with("Bearer"), "{target}");
    }
    gateway.post("/api/kv/k", "v").await.problem(401, "unauthorized");
    gateway.delete("/api/kv/k").await.problem(401, "unauthorized");
    gateway.send(Request::patch("/api/kv/k"), "").await.problem(401, "unauthorized");
    let wrong = Request::post("/api/kv/k").header("authorization", "Bearer hunter3");
    gateway.send(wrong, "v").await.problem(401, "unauthorized");

    for target in ["/healthz", "/readyz"] {
        assert_eq!(gateway.get(target).await.status, 200, "{target}");
    }
    let right = |request: http::request::Builder| request.header("authorization", "Bearer hunter2");
    assert_eq!(gateway.send(right(Request::post("/api/kv/k")), "v").await.status, 200);
    assert_eq!(gateway.send(right(Request::get("/api/kv/k")), "").await.text(), "Value: v (Source: w1)");
}

#[tokio::test]
async fn an_open_bind_without_password_is_protected() {
    let gateway = start_with("0.0.0.0:0", |_| {}, None).await;
    let detail = gateway.post("/api/kv/k", "v").await.problem(403, "protected-mode");
    assert!(detail.contains("set a password") && detail.contains("protected_mode"), "{detail}");
    assert_eq!(gateway.get("/healthz").await.status, 200);

    let open = start_with("0.0.0.0:0", |c| c.protected_mode = false, None).await;
    assert_eq!(open.post("/api/kv/k", "v").await.status, 200);
    let secret = start_with("0.0.0.0:0", |c| c.password = Some(Secret::new("x")), None).await;
    let right = Request::post("/api/kv/k").header("authorization", "Bearer x");
    assert_eq!(secret.send(right, "v").await.status, 200);
}

#[tokio::test]
async fn a_web_page_of_another_site_cannot_write() {
    let gateway = start().await;
    for (name, value) in [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")] {
        let form = Request::post("/api/kv/k").header(name, value);
        gateway.send(form, "v").await.problem(403, "cross-site");
    }
    let rebound = Request::get("/api/kv/k").header("host", "evil.example:8080");
    gateway.send(rebound, "").await.problem(403, "cross-site");
    let answer = gateway.send(Request::get("/").header("origin", "https://evil.example"), "").await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    gateway.get("/api/kv/k").await.problem(404, "key-not-found");
}
