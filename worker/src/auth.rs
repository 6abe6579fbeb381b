//! The cluster secret: what members of a cluster show each other, as a bearer token.

use std::sync::Arc;

use subtle::ConstantTimeEq;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

const HEADER: &str = "authorization";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the cluster secret must be visible ASCII characters without spaces, at least one")]
pub struct InvalidSecret;

/// `Bearer <secret>`; `None` where no secret is set. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Secret(Option<Arc<MetadataValue<Ascii>>>);

impl Secret {
    pub(crate) fn new(secret: Option<&str>) -> Result<Self, InvalidSecret> {
        let Some(secret) = secret else { return Ok(Self(None)) };
        if secret.is_empty() || !secret.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(InvalidSecret);
        }
        let mut value: MetadataValue<_> = format!("Bearer {secret}").parse().map_err(|_| InvalidSecret)?;
        value.set_sensitive(true);
        Ok(Self(Some(Arc::new(value))))
    }

    /// Shows the secret to a peer.
    pub(crate) fn attach<T>(&self, request: &mut Request<T>) {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert(HEADER, MetadataValue::clone(value));
        }
    }
}

/// Demands the secret of callers.
impl Interceptor for Secret {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(expected) = &self.0 else { return Ok(request) };
        let shown = request.metadata().get(HEADER).map_or(&[][..], |value| value.as_encoded_bytes());
        if bool::from(shown.ct_eq(expected.as_encoded_bytes())) {
            Ok(request)
        } else {
            Err(Status::unauthenticated("the cluster secret is missing or wrong"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(secret: Option<&str>) -> Request<()> {
        let mut request = Request::new(());
        Secret::new(secret).unwrap().attach(&mut request);
        request
    }

    #[test]
    fn only_the_right_secret_passes_where_one_is_set() {
        let mut guard = Secret::new(Some("s3cret")).unwrap();
        assert!(guard.call(shown(Some("s3cret"))).is_ok());
        for wrong in [None, Some("s3cre"), Some("s3cretx"), Some("S3cret")] {
            assert_eq!(guard.call(shown(wrong)).unwrap_err().code(), tonic::Code::Unauthenticated);
        }
        assert!(Secret::new(None).unwrap().call(shown(None)).is_ok());
    }

    #[test]
    fn a_secret_that_no_header_can_carry_is_refused() {
        for bad in ["", "two words", "tab\t", "ünï"] {
            assert!(Secret::new(Some(bad)).is_err(), "{bad}");
        }
    }
}
