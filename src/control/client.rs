//! The command line's side of the unix socket: one request, one answer, taken as it comes.

use std::fmt;
use std::io;
use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

/// What must be escaped in one segment of a path (RFC 3986 §3.3).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody listens there, or it broke off.
    NoServer(io::Error),
    /// The server says that there is no such thing.
    NotFound(String),
    /// The server says no.
    Refused(String),
    /// What was to be done with the answer on this side can't be.
    Local(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::NoServer(error) => write!(f, "no server answers: {error}"),
            ClientError::Refused(text) => write!(f, "the server refuses: {text}"),
            ClientError::NotFound(text) | ClientError::Local(text) => f.write_str(text),
        }
    }
}

/// What asking runs on.
///
/// # Errors
/// The system has no room for it.
pub fn runtime() -> Result<tokio::runtime::Runtime, ClientError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ClientError::NoServer)
}

/// `text` as one segment of a path.
pub fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// Asks the server at `socket` and hands `line` each line of its answer, without the line end, until there are no more or `line`
/// says `false`.
///
/// # Errors
/// There is no answer, or not the whole of it.
pub fn ask(
    socket: &Path,
    method: Method,
    path: &str,
    body: &str,
    line: impl FnMut(&str) -> bool,
) -> Result<(), ClientError> {
    runtime()?.block_on(answered(socket, method, path, body, line))
}

/// The whole of what the server at `socket` has at `path`.
///
/// # Errors
/// There is no answer, or not the whole of it.
pub async fn text(socket: &Path, path: &str) -> Result<String, ClientError> {
    let mut text = String::new();
    let whole = |line: &str| {
        text.push_str(line);
        text.push('\n');
        true
    };
    answered(socket, Method::GET, path, "", whole).await?;
    Ok(text)
}

async fn answered(
    socket: &Path,
    method: Method,
    path: &str,
    body: &str,
    line: impl FnMut(&str) -> bool,
) -> Result<(), ClientError> {
    let response = request(socket, method, path, body)
        .await
        .map_err(ClientError::NoServer)?;
    let status = response.status();
    if status.is_success() {
        return lines(response, line).await.map_err(ClientError::NoServer);
    }
    let mut text = String::new();
    let whole = |part: &str| {
        text.push_str(part);
        true
    };
    lines(response, whole).await.map_err(ClientError::NoServer)?;
    let said = serde_json::from_str::<Value>(&text).ok();
    let said = said
        .as_ref()
        .and_then(|said| said["error"].as_str())
        .unwrap_or(&text);
    Err(match status {
        StatusCode::NOT_FOUND => ClientError::NotFound(said.to_owned()),
        _ => ClientError::Refused(said.to_owned()),
    })
}

async fn request(socket: &Path, method: Method, path: &str, body: &str) -> io::Result<Response<Incoming>> {
    let stream = tokio::net::UnixStream::connect(socket).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("Host", "ringway")
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .map_err(io::Error::other)?;
    sender.send_request(request).await.map_err(io::Error::other)
}

async fn lines(response: Response<Incoming>, mut line: impl FnMut(&str) -> bool) -> io::Result<()> {
    let mut body = response.into_body();
    let mut held = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(io::Error::other)?;
        let Some(data) = frame.data_ref() else { continue };
        held.extend_from_slice(data);
        let Some(end) = memchr::memrchr(b'\n', &held) else {
            continue;
        };
        let rest = held.split_off(end + 1);
        for text in String::from_utf8_lossy(&held).lines() {
            if !line(text) {
                return Ok(());
            }
        }
        held = rest;
    }
    if !held.is_empty() {
        line(&String::from_utf8_lossy(&held));
    }
    Ok(())
}
