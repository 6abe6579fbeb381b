//! Plain HTTP to the parts of a cluster.

/// For a client that goes to parts on this machine: without a proxy, and without certificates, which a bare container may
/// not even have.
pub fn builder() -> reqwest::ClientBuilder {
    // The process has one provider of TLS, which plain HTTP needs too before a client can be built. An error means that
    // one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().tls_certs_only([])
}
