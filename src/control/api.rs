//! What the admin server answers: health, metrics, and the JSON API that the command line and the live page stand on.
//!
//! A listing is a line of JSON an entry (`application/x-ndjson`), fetched from the shards page by page as the reader takes it, so
//! that a million registrations are never in memory at once and no shard is held up.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::stream;
use serde::{Deserialize, Serialize};

use crate::capture::TRACES_MAX;
use crate::metrics::Timed;
use crate::port::Listing;
use crate::wire::ShardId;

use super::desk::{Busy, By, Desk};
use super::history::{History, percentiles};
use super::lock;
use super::places::GoesOn;
use super::prometheus;
use super::status::Facts;
use super::watch::Wanted;
use super::{desk, hlog, page};

/// What a request can be answered from.
#[derive(Clone)]
pub struct Api {
    pub facts: Arc<Facts>,
    pub history: Arc<Mutex<History>>,
    pub desk: Desk,
    /// Sets what is logged: directives as in `log.level`.
    pub set_log: fn(&str) -> Result<(), String>,
}

/// What is wrong with a request, as JSON.
#[derive(Serialize)]
struct Problem {
    error: String,
}

struct Failed(StatusCode, String);

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let Failed(status, error) = self;
        (status, axum::Json(Problem { error })).into_response()
    }
}

impl From<Busy> for Failed {
    fn from(_: Busy) -> Failed {
        let text = "a shard has too much to do to answer; try again";
        Failed(StatusCode::SERVICE_UNAVAILABLE, text.to_owned())
    }
}

type Answer<T> = Result<T, Failed>;

fn not_found(what: &str) -> Failed {
    Failed(StatusCode::NOT_FOUND, format!("there is no {what}"))
}

/// How many things were ended, or the like.
#[derive(Serialize)]
struct Count {
    count: u32,
}

pub fn router(api: Api) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/history", get(history))
        .route("/api/v1/histograms", get(histograms))
        .route("/api/v1/histograms/{kind}", get(histogram))
        .route("/api/v1/peers", get(peers))
        .route(
            "/api/v1/registrations",
            get(|state| listing(state, Listing::Registrations)),
        )
        .route(
            "/api/v1/registrations/{aor}",
            get(registration).delete(unregister),
        )
        .route("/api/v1/calls", get(|state| listing(state, Listing::Calls)))
        .route("/api/v1/calls/{call_id}", get(call).delete(hang_up))
        .route(
            "/api/v1/subscriptions",
            get(|state| listing(state, Listing::Subscriptions)),
        )
        .route(
            "/api/v1/connections",
            get(|state| listing(state, Listing::Connections)),
        )
        .route("/api/v1/trunks", get(trunks))
        .route("/api/v1/trunks/{name}", get(trunk))
        .route("/api/v1/trace", get(trace))
        .route("/api/v1/drain", post(drain))
        .route("/api/v1/reload", post(reload))
        .route("/api/v1/log", post(log))
        .merge(page::router())
        .fallback(|| async { not_found("such path; see ringway help admin") })
        .with_state(api)
}

async fn ready(State(api): State<Api>) -> (StatusCode, &'static str) {
    if api.facts.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

async fn metrics(State(api): State<Api>) -> impl IntoResponse {
    let text = {
        let history = lock(&api.history);
        prometheus::render(&api.facts, history.total())
    };
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
}

async fn status(State(api): State<Api>) -> impl IntoResponse {
    axum::Json(api.facts.status())
}

#[derive(Deserialize)]
struct Span {
    #[serde(default = "a_minute")]
    seconds: usize,
}

fn a_minute() -> usize {
    60
}

async fn history(State(api): State<Api>, Query(span): Query<Span>) -> impl IntoResponse {
    let history = lock(&api.history);
    axum::Json(history.last(span.seconds).cloned().collect::<Vec<_>>())
}

async fn histograms(State(api): State<Api>) -> impl IntoResponse {
    let history = lock(&api.history);
    axum::Json(percentiles(history.total()))
}

/// How many peers are asked for, and over which last seconds.
#[derive(Deserialize)]
#[serde(default)]
struct Most {
    seconds: usize,
    count: usize,
}

impl Default for Most {
    fn default() -> Self {
        Most {
            seconds: 10,
            count: 50,
        }
    }
}

/// The busiest peers, a line each.
async fn peers(State(api): State<Api>, Query(most): Query<Most>) -> Answer<Response> {
    let peers = lock(&api.history).busiest.last(most.seconds, most.count);
    lines_of(peers.into_iter())
}

/// One point of a percentile curve.
#[derive(Serialize)]
struct Point {
    quantile: f64,
    us: f64,
}

/// One histogram: what is in it, and its curve from the least to the greatest value.
#[derive(Serialize)]
struct Curve {
    kind: &'static str,
    count: u64,
    mean_us: f64,
    points: Vec<Point>,
}

/// Steps of a curve each time the distance to 1 is halved, as HdrHistogram's own plots have them.
const TICKS_PER_HALF: u32 = 5;

async fn histogram(State(api): State<Api>, Path(kind): Path<String>) -> Answer<Response> {
    let (name, as_log) = match kind.strip_suffix(".hlog") {
        Some(name) => (name, true),
        None => (&kind[..], false),
    };
    let timed = Timed::parse(name).ok_or_else(|| {
        let known: Vec<&str> = Timed::all().map(Timed::text).collect();
        let text = format!("no histogram is called {name:?}; there are {}", known.join(", "));
        Failed(StatusCode::NOT_FOUND, text)
    })?;
    let history = lock(&api.history);
    let histogram = history.total().get(timed);
    if as_log {
        let dates = (api.facts.dates)();
        let (from, to) = (dates.date(api.facts.started), dates.date((api.facts.now)()));
        let text = hlog::whole(timed, histogram, from, to);
        return Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response());
    }
    let points = histogram
        .iter_quantiles(TICKS_PER_HALF)
        .map(|step| Point {
            quantile: step.quantile_iterated_to(),
            us: step.value_iterated_to() as f64 / 1_000.0,
        })
        .collect();
    Ok(axum::Json(Curve {
        kind: timed.text(),
        count: histogram.len(),
        mean_us: histogram.mean() / 1_000.0,
        points,
    })
    .into_response())
}

/// Where a listing has got to.
struct Walk {
    desk: Desk,
    listing: Listing,
    wanted: Vec<u8>,
    /// Those still to come, the present one first.
    shards: std::collections::VecDeque<ShardId>,
    cursor: u32,
}

impl Walk {
    fn new(desk: &Desk, listing: Listing, wanted: Vec<u8>) -> Walk {
        Walk {
            desk: desk.clone(),
            listing,
            wanted,
            shards: desk.shards().collect(),
            cursor: 0,
        }
    }

    /// The next page that has something in it; `None` at the end.
    async fn next(&mut self) -> Option<Result<Bytes, Busy>> {
        while let Some(&shard) = self.shards.front() {
            let asked = self
                .desk
                .list(shard, self.listing, self.cursor, &self.wanted)
                .await;
            let (page, next) = match asked {
                Ok(answer) => answer,
                Err(busy) => {
                    self.shards.clear();
                    return Some(Err(busy));
                }
            };
            match next {
                Some(next) => self.cursor = next,
                None => {
                    self.shards.pop_front();
                    self.cursor = 0;
                }
            }
            if !page.is_empty() {
                return Some(Ok(Bytes::from(page.into_bytes())));
            }
        }
        None
    }
}

const NDJSON: [(header::HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/x-ndjson")];

async fn listing(State(api): State<Api>, listing: Listing) -> Response {
    let walk = Walk::new(&api.desk, listing, Vec::new());
    let pages = stream::unfold(walk, |mut walk| async move {
        let page = walk.next().await?;
        // A listing that breaks off ends its connection, so that nobody takes it for whole.
        let page = page.map_err(|desk::Busy| std::io::Error::other("a shard has too much to do"));
        Some((page, walk))
    });
    (NDJSON, Body::from_stream(pages)).into_response()
}

/// The lines of what is wanted alone, all of them.
async fn some(api: &Api, listing: Listing, wanted: &str) -> Answer<Vec<u8>> {
    let mut walk = Walk::new(&api.desk, listing, wanted.as_bytes().to_vec());
    let mut lines = Vec::new();
    while let Some(page) = walk.next().await {
        lines.extend_from_slice(&page?);
    }
    Ok(lines)
}

async fn registration(State(api): State<Api>, Path(aor): Path<String>) -> Answer<Response> {
    let lines = some(&api, Listing::Registrations, &aor).await?;
    if lines.is_empty() {
        return Err(not_found(&format!("registration of {aor}")));
    }
    Ok((NDJSON, lines).into_response())
}

async fn unregister(
    State(api): State<Api>,
    Extension(by): Extension<By>,
    Path(aor): Path<String>,
) -> Answer<Response> {
    let count = api.desk.unregister(aor.as_bytes()).await?;
    if count == 0 {
        return Err(not_found(&format!("registration of {aor}")));
    }
    tracing::info!(aor, bindings = count, %by, "unregistered by an operator");
    Ok(axum::Json(Count { count }).into_response())
}

async fn call(State(api): State<Api>, Path(call_id): Path<String>) -> Answer<Response> {
    let lines = some(&api, Listing::Calls, &call_id).await?;
    if lines.is_empty() {
        return Err(not_found(&format!("call with the Call-ID {call_id}")));
    }
    Ok((NDJSON, lines).into_response())
}

/// What a line of a listing says of a call, as far as hanging up wants it.
#[derive(Deserialize)]
struct CallName {
    shard: u8,
    id: String,
}

async fn hang_up(
    State(api): State<Api>,
    Extension(by): Extension<By>,
    Path(call_id): Path<String>,
) -> Answer<Response> {
    let lines = some(&api, Listing::Calls, &call_id).await?;
    let mut count = 0;
    for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let name: CallName = serde_json::from_slice(line)
            .map_err(|error| Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        let id = name.id.split_once('.').and_then(|(slot, generation)| {
            Some((slot.parse::<u32>().ok()?, generation.parse::<u32>().ok()?))
        });
        if let Some((slot, generation)) = id {
            count += api.desk.hang_up(ShardId(name.shard), slot, generation).await?;
        }
    }
    if count == 0 {
        return Err(not_found(&format!("call with the Call-ID {call_id}")));
    }
    tracing::info!(call_id, %by, "hung up by an operator");
    Ok(axum::Json(Count { count }).into_response())
}

/// Lines as of a listing, although they are few and the shards are not asked.
fn lines_of(entries: impl Iterator<Item = impl Serialize>) -> Answer<Response> {
    let mut lines = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut lines, &entry)
            .map_err(|error| Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        lines.push(b'\n');
    }
    Ok((NDJSON, lines).into_response())
}

async fn trunks(State(api): State<Api>) -> Answer<Response> {
    lines_of(api.facts.trunks.view((api.facts.now)()).into_iter())
}

async fn trunk(State(api): State<Api>, Path(name): Path<String>) -> Answer<Response> {
    let mut all = api.facts.trunks.view((api.facts.now)());
    all.retain(|trunk| trunk.trunk == name);
    if all.is_empty() {
        return Err(not_found(&format!("trunk {name}")));
    }
    lines_of(all.into_iter())
}

async fn trace(
    State(api): State<Api>,
    Extension(by): Extension<By>,
    Query(wanted): Query<Wanted>,
) -> Answer<Response> {
    let filter = wanted
        .filter()
        .map_err(|error| Failed(StatusCode::BAD_REQUEST, error))?;
    tracing::info!(%by, ?filter, "traced by an operator");
    // A trace is dated as its messages are.
    let now = (api.facts.dates)().date((api.facts.now)());
    let metrics = api.facts.metrics.clone();
    let lines = api
        .desk
        .trace(filter, wanted, now, metrics)
        .await
        .map_err(|Busy| {
            let text = format!("no further trace can begin: there are at most {TRACES_MAX} at a time");
            Failed(StatusCode::SERVICE_UNAVAILABLE, text)
        })?;
    let lines = stream::unfold(lines, |mut lines| async move {
        let line = lines.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(line), lines))
    });
    Ok((Extension(GoesOn), NDJSON, Body::from_stream(lines)).into_response())
}

async fn drain(State(api): State<Api>, Extension(by): Extension<By>) -> Answer<StatusCode> {
    api.desk.drain(by).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn reload(State(api): State<Api>, Extension(by): Extension<By>) -> Answer<Response> {
    let draining = || Failed(StatusCode::CONFLICT, "the server is draining".to_owned());
    if api.facts.is_draining() {
        return Err(draining());
    }
    match api.desk.reload(by).await {
        Ok(Ok(reloaded)) => Ok(axum::Json(reloaded).into_response()),
        // It says file, line and what is wrong there; nothing has changed.
        Ok(Err(errors)) => Err(Failed(StatusCode::UNPROCESSABLE_ENTITY, errors)),
        // It began to drain before it came to this.
        Err(Busy) if api.facts.is_draining() => Err(draining()),
        Err(Busy) => Err(Busy.into()),
    }
}

async fn log(State(api): State<Api>, Extension(by): Extension<By>, level: String) -> Answer<StatusCode> {
    match (api.set_log)(level.trim()) {
        Ok(()) => {
            tracing::info!(level = level.trim(), %by, "the log's level was set by an operator");
            Ok(StatusCode::NO_CONTENT)
        }
        Err(error) => Err(Failed(StatusCode::BAD_REQUEST, error)),
    }
}
