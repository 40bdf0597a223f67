//! What is looked at before a request comes to anybody: where it comes from, how much it brings, how long that takes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::problem::Problem;
use crate::wire::MAX_BODY;

/// Bytes of requests in hand, all together.
const MAX_BODIES: usize = 256 << 20;
/// What is always taken in, so that orders come through while others fill the room.
const SMALL: usize = 16 << 10;
/// How long a request's body may take.
const BODY_TIME: Duration = Duration::from_secs(60);
/// How long a request waits for others to be dealt with, when too much is in hand.
const PATIENCE: Duration = Duration::from_secs(10);

/// Room for the bodies of requests, and time.
#[derive(Clone)]
pub(crate) struct Room {
    bytes: Arc<Semaphore>,
    body_time: Duration,
}

impl Default for Room {
    fn default() -> Self {
        Self::with(BODY_TIME)
    }
}

/// Reads a request's body once there is room for it, and hands it on whole.
pub(crate) async fn admit(State(room): State<Room>, request: Request, next: Next) -> Response {
    match read(&room, request).await {
        // Who leaves while the body is in hand does not make room with that.
        Ok((request, taken)) => {
            let answered = tokio::spawn(async move {
                let response = next.run(request).await;
                drop(taken);
                response
            });
            answered.await.unwrap_or_else(|died| Problem::new(500, died.to_string()).into_response())
        }
        Err(problem) => problem.into_response(),
    }
}

async fn read(room: &Room, request: Request) -> Result<(Request, Option<OwnedSemaphorePermit>), Problem> {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: usize| length > MAX_BODY) {
        return Err(too_large());
    }
    let (parts, body) = request.into_parts();
    let slow = |_| Problem::new(408, format!("the request's body took more than {:?}", room.body_time));
    let (bytes, taken) = timeout(room.body_time, room.take(body)).await.map_err(slow)??;
    Ok((Request::from_parts(parts, Body::from(bytes)), taken))
}

impl Room {
    /// Room for bodies that take no longer than this.
    pub(crate) fn with(body_time: Duration) -> Self {
        Self { bytes: Arc::new(Semaphore::new(MAX_BODIES)), body_time }
    }

    /// Takes in a body as it comes: who says that there will be much, and sends little, takes up little.
    async fn take(&self, mut body: Body) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Problem> {
        let busy = || Problem::new(503, "too many requests are in hand").help("send it again in a while");
        let (mut bytes, mut taken) = (Vec::new(), None::<OwnedSemaphorePermit>);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Problem::bad_request(format!("the body cannot be read: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            let len = bytes.len() + data.len();
            if len > MAX_BODY {
                return Err(too_large());
            }
            bytes.extend_from_slice(&data);
            if len <= SMALL {
                continue;
            }
            let more = timeout(PATIENCE, self.bytes.clone().acquire_many_owned(data.len() as u32)).await;
            let more = more.map_err(|_| busy())?.map_err(|_| busy())?;
            match &mut taken {
                Some(taken) => taken.merge(more),
                None => taken = Some(more),
            }
        }
        Ok((bytes, taken))
    }
}

fn too_large() -> Problem {
    Problem::new(413, format!("a request has at most {MAX_BODY} bytes")).help("send fewer events at once")
}

/// Refuses what a page of another site has a browser send: whoever runs a node opens other pages, too.
pub(crate) async fn same_site(State(loopback): State<bool>, request: Request, next: Next) -> Response {
    let is_page = request.method() == Method::GET && request.uri().path() == "/";
    match check_site(request.headers(), loopback, is_page) {
        Ok(()) => next.run(request).await,
        Err(detail) => Problem::new(403, detail).into_response(),
    }
}

/// `is_page`: what is asked for is a page that says nothing of the node.
fn check_site(headers: &HeaderMap, loopback: bool, is_page: bool) -> Result<(), String> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST).unwrap_or_default();
    if loopback && !is_loopback(host) {
        // A name that somebody else has point here.
        return Err(format!(
            "this node is asked by the names of this machine only (localhost, 127.0.0.1), not {host:?}"
        ));
    }
    if let Some(origin) = text(header::ORIGIN)
        && origin.split_once("://").is_none_or(|(_, from)| from != host)
    {
        return Err(format!("pages of other sites ({origin}) may not use this node"));
    }
    // A link elsewhere may lead a person here, to look at it in a window of its own.
    if is_page
        && text(HeaderName::from_static("sec-fetch-mode")) == Some("navigate")
        && text(HeaderName::from_static("sec-fetch-dest")) == Some("document")
    {
        return Ok(());
    }
    match headers.get("sec-fetch-site").map(|site| site.to_str().unwrap_or("?")) {
        None | Some("same-origin" | "none") => Ok(()),
        Some(site) => Err(format!("pages of other sites may not use this node ({site})")),
    }
}

/// Whether the host of a `Host` header is this machine, whatever others say.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_other_sites_are_refused() {
        let check = |host: &str, origin: Option<&str>, site: Option<&str>, loopback| {
            let mut headers = HeaderMap::new();
            for (name, value) in [("host", Some(host)), ("origin", origin), ("sec-fetch-site", site)] {
                value.into_iter().for_each(|value| drop(headers.insert(name, value.parse().unwrap())));
            }
            check_site(&headers, loopback, false).is_ok()
        };
        for host in ["localhost", "localhost:7070", "127.0.0.1:7070", "[::1]:7070", "LOCALHOST:1"] {
            assert!(check(host, None, None, true), "{host}");
            assert!(check(host, Some(&format!("http://{host}")), Some("same-origin"), true), "{host}");
        }
        for host in
            ["", "evil.example", "evil.example:7070", "localhost.evil.example", "10.0.0.1", "127.0.0.1.evil.example"]
        {
            assert!(!check(host, None, None, true), "{host}");
        }
        assert!(check("node.example:7070", None, None, false));
        assert!(!check("localhost:7070", Some("http://evil.example"), None, true));
        assert!(!check("localhost:7070", Some("http://localhost:8080"), None, true), "another port is another site");
        assert!(!check("localhost:7070", Some("null"), None, true));
        assert!(!check("localhost:7070", None, Some("cross-site"), true));
        assert!(!check("node.example", Some("http://evil.example"), None, false));
    }

    #[test]
    fn a_link_elsewhere_leads_to_the_dashboard_and_to_nothing_else() {
        let mut headers = HeaderMap::new();
        let told = [
            ("host", "localhost"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        for (name, value) in told {
            headers.insert(name, value.parse().unwrap());
        }
        assert!(check_site(&headers, true, true).is_ok());
        assert!(check_site(&headers, true, false).is_err());
        headers.insert("sec-fetch-dest", "iframe".parse().unwrap());
        assert!(check_site(&headers, true, true).is_err());
    }
}
