//! Plain HTTP to the parts of a cluster.

/// For a client that goes to parts on this machine, without a proxy.
pub fn builder() -> reqwest::ClientBuilder {
    // Built together with programs that speak TLS, plain HTTP wants a provider of it too before a client can be built. An
    // error means that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy()
}
