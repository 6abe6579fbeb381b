//! Who may ask: protected mode, the password, and what browsers must not be made to do.
//!
//! A store on `127.0.0.1` without a password is still within reach of every web page that its user opens.
//! Three things keep pages out: there are no CORS headers, so a page cannot read answers of another origin;
//! writes that a browser sends for another site are refused (Fetch Metadata, or else `Origin`); and a
//! loopback listener answers only to an address or `localhost` in `Host`, so that a hostile name that
//! resolves to 127.0.0.1 gains nothing (DNS rebinding). With a password none of that is needed, because no
//! browser adds the Bearer token by itself.

use std::net::IpAddr;

use http::{HeaderMap, Method, header};

use super::problem::{Kind, Problem};
use crate::config::{Config, Secret};

/// The rules of one listener.
pub(super) struct Access {
    password: Option<Secret>,
    protected_mode: bool,
    /// The listener's address is loopback.
    loopback: bool,
}

impl Access {
    pub(super) fn new(config: &Config, listener: Option<IpAddr>) -> Self {
        Self {
            password: config.password.clone(),
            protected_mode: config.protected_mode,
            loopback: listener.is_some_and(|ip| ip.to_canonical().is_loopback()),
        }
    }

    pub(super) fn admit(&self, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
        match &self.password {
            Some(password) if bearer(headers).is_some_and(|token| password.matches(token)) => Ok(()),
            Some(_) => Err(Problem::new(
                Kind::Unauthorized,
                "send the header `Authorization: Bearer <password>` with the right password",
            )),
            None if self.protected_mode && !self.loopback => Err(Problem::new(
                Kind::ProtectedMode,
                "this server listens on an address that is not loopback and has no password: set a password, \
                 listen on 127.0.0.1, or turn protected_mode off",
            )),
            None => self.admit_browser(method, headers),
        }
    }

    fn admit_browser(&self, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).map(host_of);
        if self.loopback && host.is_some_and(|host| !names_loopback(host)) {
            return Err(Problem::new(
                Kind::CrossSite,
                "a loopback listener without a password answers only to an address or localhost in `Host`",
            ));
        }
        if !method.is_safe() && is_cross_site(headers, host) {
            return Err(Problem::new(
                Kind::CrossSite,
                "a web page of another site may not write here without a password",
            ));
        }
        Ok(())
    }
}

/// The token of `Authorization: Bearer`. The scheme is compared without case (RFC 9110, 11.1).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer ";
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| token.trim_ascii())
}

/// Browsers send `Sec-Fetch-Site` to loopback addresses and `Origin` with every write; other clients send
/// neither.
fn is_cross_site(headers: &HeaderMap, host: Option<&str>) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "cross-site";
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let origin_host = origin.to_str().ok().and_then(|o| o.split_once("://")).map(|(_, rest)| host_of(rest));
    // `Origin: null`, of sandboxed pages and local files, has no host.
    match (origin_host, host) {
        (Some(origin), Some(host)) => !origin.eq_ignore_ascii_case(host),
        _ => true,
    }
}

/// `host[:port]` without the port.
fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, _)) => v6,
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    }
}

fn names_loopback(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    host.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn access(password: Option<&str>, ip: &str) -> Access {
        let config = Config { password: password.map(Secret::new), ..Config::new(Vec::new()) };
        Access::new(&config, ip.parse().ok())
    }

    fn admit(access: &Access, method: Method, headers: &[(&'static str, &'static str)]) -> Option<Kind> {
        let headers = headers
            .iter()
            .map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v)))
            .collect::<HeaderMap>();
        access.admit(&method, &headers).err().map(|problem| problem.kind)
    }

    #[test]
    fn a_password_is_asked_of_everyone() {
        for ip in ["127.0.0.1", "0.0.0.0"] {
            let access = access(Some("hunter2"), ip);
            let with = |value| admit(&access, Method::GET, &[("authorization", value)]);
            assert_eq!(with("Bearer hunter2"), None);
            assert_eq!(with("bearer  hunter2"), None);
            for wrong in ["Bearer hunter", "Bearer hunter22", "Bearer ", "Bearer", "Basic hunter2", "hunter2"]
            {
                assert_eq!(with(wrong), Some(Kind::Unauthorized), "{wrong}");
            }
            assert_eq!(admit(&access, Method::GET, &[]), Some(Kind::Unauthorized));
        }
    }

    #[test]
    fn protected_mode_is_for_binds_that_are_not_loopback() {
        assert_eq!(admit(&access(None, "0.0.0.0"), Method::GET, &[]), Some(Kind::ProtectedMode));
        assert_eq!(admit(&access(None, "192.0.2.1"), Method::GET, &[]), Some(Kind::ProtectedMode));
        assert_eq!(admit(&access(None, "127.0.0.1"), Method::GET, &[]), None);
        assert_eq!(admit(&access(None, "::1"), Method::GET, &[]), None);
        assert_eq!(admit(&access(None, "::ffff:127.0.0.1"), Method::GET, &[]), None);
        let open = Access { protected_mode: false, ..access(None, "0.0.0.0") };
        assert_eq!(admit(&open, Method::GET, &[]), None);
    }

    #[test]
    fn a_page_of_another_site_cannot_write() {
        let access = access(None, "127.0.0.1");
        let post = |headers: &[_]| admit(&access, Method::POST, headers);
        let host = ("host", "127.0.0.1:8080");
        assert_eq!(post(&[host]), None);
        assert_eq!(post(&[host, ("origin", "http://127.0.0.1:3000")]), None);
        assert_eq!(post(&[host, ("sec-fetch-site", "same-origin")]), None);
        for headers in [
            [host, ("sec-fetch-site", "cross-site")],
            [host, ("origin", "https://example.com")],
            [host, ("origin", "null")],
        ] {
            assert_eq!(post(&headers), Some(Kind::CrossSite), "{headers:?}");
            assert_eq!(admit(&access, Method::GET, &headers), None, "{headers:?}");
        }
    }

    #[test]
    fn a_foreign_name_at_a_loopback_address_is_refused() {
        let local = access(None, "127.0.0.1");
        for host in ["localhost", "localhost:8080", "db.localhost", "127.0.0.1", "[::1]:8080", "LOCALHOST."] {
            assert_eq!(admit(&local, Method::GET, &[("host", host)]), None, "{host}");
        }
        for host in ["evil.example", "evil.example:8080", "localhost.evil.example"] {
            assert_eq!(admit(&local, Method::GET, &[("host", host)]), Some(Kind::CrossSite), "{host}");
        }
        assert_eq!(
            admit(
                &access(Some("x"), "127.0.0.1"),
                Method::GET,
                &[("host", "kv.example"), ("authorization", "Bearer x")]
            ),
            None
        );
    }
}
