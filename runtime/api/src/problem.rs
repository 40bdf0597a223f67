//! Errors as they travel.

use axum::body::to_bytes;
use axum::extract::Request;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_log::{Advice, Error};
use sluice_node::NodeError;

/// The media type of a problem document (RFC 9457).
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// Why a request was refused or failed: a problem document (RFC 9457) of the type `about:blank`, with members of our own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// What that is called.
    #[serde(default)]
    pub title: String,
    /// What is wrong.
    pub detail: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Whether storage is at fault.
    pub storage: bool,
    /// The sequence number a producer should go on with, when it skipped some.
    pub expected: Option<u64>,
}

impl Problem {
    pub(crate) fn new(status: u16, detail: impl Into<String>) -> Self {
        let title = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        let title = title.unwrap_or_default().to_owned();
        Self { status, title, detail: detail.into(), help: None, storage: false, expected: None }
    }

    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// A request that is not as it should be.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(400, detail)
    }

    /// Storage is at fault.
    pub(crate) fn storage(detail: impl Into<String>) -> Self {
        Self { storage: true, ..Self::new(500, detail) }
    }

    /// The connection, or the other side of it, is not as it should be.
    pub fn connection(detail: impl std::fmt::Display) -> Self {
        Self::new(500, format!("the node does not answer: {detail}"))
    }

    /// Whether the request itself was wrong.
    pub fn is_usage(&self) -> bool {
        (400..500).contains(&self.status)
    }
}

/// What to do about an error that a running node's log gave.
pub fn help(error: &Error) -> Option<String> {
    match error {
        Error::UnknownTopic(topic) => {
            Some(format!("`sluice topic list` shows them; `sluice topic create {topic}` makes it"))
        }
        Error::UnknownPipeline(_) => Some("`sluice status` shows them".to_owned()),
        Error::NoSpace { .. } => Some("free some space and try again; nothing was written".to_owned()),
        Error::Damaged { .. } => Some("stop the node, and run `sluice fsck`: it explains".to_owned()),
        _ => None,
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status().as_u16(), rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = match (&error, error.advice()) {
            (Error::UnknownTopic(_) | Error::UnknownPartition { .. } | Error::UnknownPipeline(_), _) => 404,
            (Error::TopicExists(_) | Error::SequenceGap { .. } | Error::Fenced { .. }, _) => 409,
            (Error::TooLarge { .. }, _) => 413,
            (Error::NoSpace { .. }, _) => 507,
            (_, Advice::Fix) => 400,
            _ => 500,
        };
        let expected = if let Error::SequenceGap { expected, .. } = &error { Some(*expected) } else { None };
        let (help, storage) = (help(&error), error.is_storage_fault());
        Self { help, storage, expected, ..Self::new(status, error.to_string()) }
    }
}

impl From<NodeError> for Problem {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Log(error) => error.into(),
            NodeError::Refused(diagnostics) => {
                let told: Vec<_> = diagnostics.iter().map(|diagnostic| diagnostic.render(false)).collect();
                Self::bad_request(told.join("\n\n"))
            }
            NodeError::Failed(reason) => Self::new(500, reason),
            NodeError::Host(error) => Self::new(500, error.to_string()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        (status, [(header::CONTENT_TYPE, MEDIA_TYPE)], body).into_response()
    }
}

/// Nothing is there.
pub(crate) async fn unknown(uri: Uri) -> Problem {
    Problem::new(404, format!("nothing is at {}", uri.path()))
}

/// Something is there, for other methods.
pub(crate) async fn not_allowed(method: Method, uri: Uri) -> Problem {
    Problem::new(405, format!("{} takes no {method}", uri.path()))
}

/// Makes a problem document of every error, whoever made that.
pub(crate) async fn as_document(request: Request, next: Next) -> Response {
    /// More is not told.
    const MOST: usize = 4096;
    let response = next.run(request).await;
    let status = response.status();
    let is_document = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == MEDIA_TYPE);
    if is_document || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let told = to_bytes(response.into_body(), MOST).await.unwrap_or_default();
    Problem::new(status.as_u16(), String::from_utf8_lossy(&told)).into_response()
}
