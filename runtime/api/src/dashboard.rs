//! The dashboard: pages for people, which ask the node over the same API as everybody. No build step, and nothing from elsewhere.

use axum::Router;
use axum::http::header::{self, HeaderName};
use axum::response::IntoResponse;
use axum::routing::get;

/// Where each file is served, what it is, and what is in it.
const FILES: [(&str, &str, &str); 16] = [
    ("/", HTML, include_str!("../dashboard/index.html")),
    ("/style.css", CSS, include_str!("../dashboard/style.css")),
    ("/icon.svg", "image/svg+xml", include_str!("../dashboard/icon.svg")),
    ("/app.js", SCRIPT, include_str!("../dashboard/app.js")),
    ("/actions.js", SCRIPT, include_str!("../dashboard/actions.js")),
    ("/alerts.js", SCRIPT, include_str!("../dashboard/alerts.js")),
    ("/api.js", SCRIPT, include_str!("../dashboard/api.js")),
    ("/charts.js", SCRIPT, include_str!("../dashboard/charts.js")),
    ("/checkpoints.js", SCRIPT, include_str!("../dashboard/checkpoints.js")),
    ("/dead.js", SCRIPT, include_str!("../dashboard/dead.js")),
    ("/dom.js", SCRIPT, include_str!("../dashboard/dom.js")),
    ("/graph.js", SCRIPT, include_str!("../dashboard/graph.js")),
    ("/overview.js", SCRIPT, include_str!("../dashboard/overview.js")),
    ("/pipeline.js", SCRIPT, include_str!("../dashboard/pipeline.js")),
    ("/topics.js", SCRIPT, include_str!("../dashboard/topics.js")),
    ("/vendor/uplot.css", CSS, include_str!("../dashboard/vendor/uplot.css")),
];
/// The charting library, uPlot (MIT), as its authors publish it.
const CHARTS: (&str, &str, &str) = ("/vendor/uplot.js", SCRIPT, include_str!("../dashboard/vendor/uplot.js"));

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Nothing runs there that is not the node's own, and nothing is asked of anybody else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Serves them; they say nothing of the node, so that everybody may have them.
pub(crate) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().chain([CHARTS]).fold(Router::new(), |router, (path, kind, text)| {
        router.route(path, get(move || async move { file(kind, text) }))
    })
}

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers: [(HeaderName, &str); 5] = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text)
}
