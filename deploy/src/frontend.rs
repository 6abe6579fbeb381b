//! A frontend as the commands that ask one see it: where it is, and how its answers are to be read.

use std::time::Duration;

use anyhow::{Context, bail};
use tercet_frontend::coordinator::status::ClusterStatus;

use crate::cli::FrontendAt;
use crate::http;
use crate::up::datadir::DataDir;

const STATUS: &str = "/admin/status";
const TIMEOUT: Duration = Duration::from_secs(10);
/// How much of an unexpected answer is shown.
const SHOWN_BYTES: usize = 512;

pub(crate) struct Frontend {
    base: String,
    password: Option<String>,
}

impl Frontend {
    /// Without `--rest` the local cluster is meant, if there is one; its directory then knows address and password.
    pub(crate) fn find(at: &FrontendAt) -> anyhow::Result<Self> {
        let local = match at.rest {
            Some(_) => None,
            None => DataDir::locate(at.place.data_dir.as_deref()).ok().filter(|dir| dir.running().is_some()),
        };
        let base = match (&at.rest, local.as_ref().and_then(DataDir::running)) {
            (Some(url), _) => http::base_url(url),
            (None, Some(running)) => http::base_url(&running.rest.to_string()),
            (None, None) if at.place.data_dir.is_some() => {
                bail!("no cluster runs in that directory: start it with `tercet up`")
            }
            (None, None) => "http://127.0.0.1:8080".to_owned(),
        };
        let password = match at.password.read()? {
            Some(password) => Some(password),
            None => local.and_then(|dir| dir.password()),
        };
        Ok(Self { base, password })
    }

    /// Any answer; an error: there was none.
    pub(crate) async fn send(&self, method: reqwest::Method, path: &str) -> anyhow::Result<(u16, Vec<u8>)> {
        let url = format!("{}{path}", self.base);
        let client = http::Client::new(&url)?;
        let answer = client.send(method, &url, self.password.as_deref(), TIMEOUT).await;
        answer.with_context(|| format!("no frontend answers at {url}"))
    }

    /// What an answer that is no success says.
    pub(crate) fn refusal(&self, path: &str, status: u16, body: &[u8]) -> anyhow::Error {
        let url = format!("{}{path}", self.base);
        match status {
            401 | 403 => {
                anyhow::anyhow!("{url} wants the clients' password: set TERCET_PASSWORD or --password-file")
            }
            other => match serde_json::from_slice::<serde_json::Value>(body) {
                // A problem document.
                Ok(problem) if problem["detail"].is_string() => {
                    anyhow::anyhow!("{}", problem["detail"].as_str().unwrap_or_default())
                }
                _ => {
                    let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES)]);
                    anyhow::anyhow!("{url} answered {other}: {shown}")
                }
            },
        }
    }

    /// The cluster's status, and the text it came as. Errors as in [`Self::send`] and [`Self::refusal`].
    pub(crate) async fn cluster_status(&self) -> anyhow::Result<anyhow::Result<(ClusterStatus, String)>> {
        let (status, body) = self.send(reqwest::Method::GET, STATUS).await?;
        if status != 200 {
            return Ok(Err(self.refusal(STATUS, status, &body)));
        }
        let parsed = serde_json::from_slice(&body)
            .with_context(|| format!("{}{STATUS} answered something else than a status", self.base));
        Ok(parsed.map(|status| (status, String::from_utf8_lossy(&body).into_owned())))
    }
}
