//! The admin server's sockets: HTTP for people and programs, a unix socket for the command line. What one connection may take is
//! bounded in size, number and time.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::desk::By;
use super::places::{Counts, GoesOn, Place, Places, Question, Source, Taken, Told, Watched};
use super::{origin, page};

/// Bytes of one request's head.
const HEAD_BYTES_MAX: usize = 16 * 1_024;
/// How long one connection may last: a listing of millions, or a trace that is watched.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(3_600);
/// Accepting rests for so long when it fails, for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What one connection may take, and how many there may be.
#[derive(Clone)]
pub struct Bounds {
    /// Connections of one listener.
    pub connections_max: usize,
    /// How long a request's head may take, from the end of the one before.
    pub head_timeout: Duration,
    pub counts: Arc<Counts>,
}

/// Who may ask over a listener.
struct Access {
    /// What must be presented; empty: nothing.
    token: String,
    /// Browsers reach it, and through them the pages of anybody.
    is_http: bool,
    head_timeout: Duration,
}

/// Serves HTTP at `addr`. `token`: what must be presented; empty: nothing.
///
/// # Errors
/// The address can't be bound.
pub async fn http(addr: SocketAddr, token: String, router: Router, bounds: Bounds) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(addr).await?;
    let addr = listener.local_addr()?;
    let places = Places::new(bounds.connections_max, bounds.counts);
    tokio::task::spawn_local(async move {
        let access = Arc::new(Access {
            token,
            is_http: true,
            head_timeout: bounds.head_timeout,
        });
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let by = By(peer.to_string().into());
                    let taken = places.take(Source::of(peer.ip())).await;
                    serve(stream, by, router.clone(), access.clone(), taken);
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    });
    Ok(addr)
}

/// The unix socket; its file goes with it.
pub struct Socket {
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Serves the same on a unix socket at `path`, for this user alone and without a token.
///
/// # Errors
/// It can't be made; or another server answers there.
pub async fn unix(path: &Path, router: Router, bounds: Bounds) -> io::Result<Socket> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another server answers there",
        ));
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    match std::fs::symlink_metadata(path) {
        // Nobody answers: it was left behind.
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        // Whoever mistook the path wants to keep what is there.
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a file that is no socket is there",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let places = Places::new(bounds.connections_max, bounds.counts);
    tokio::task::spawn_local(async move {
        let access = Arc::new(Access {
            token: String::new(),
            is_http: false,
            head_timeout: bounds.head_timeout,
        });
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let by = user_of(&stream);
                    let taken = places.take(Source::Local).await;
                    serve(stream, by, router.clone(), access.clone(), taken);
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    });
    Ok(Socket {
        path: path.to_owned(),
    })
}

/// Who is at the other end of a unix socket.
fn user_of(stream: &UnixStream) -> By {
    let by = match stream.peer_cred() {
        Ok(peer) => match peer.pid() {
            Some(pid) => format!("uid {} pid {pid}", peer.uid()),
            None => format!("uid {}", peer.uid()),
        },
        Err(_) => "unix socket".to_owned(),
    };
    By(by.into())
}

/// Serves one connection, on a task of its own, until it ends or has to make room.
fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    by: By,
    router: Router,
    access: Arc<Access>,
    taken: Taken,
) {
    tokio::task::spawn_local(async move {
        let place = taken.place();
        let head_timeout = access.head_timeout;
        let stream = Watched {
            stream,
            place: place.clone(),
        };
        let asked_at = place.clone();
        let answer = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(by.clone());
            let (router, access) = (router.clone(), access.clone());
            answer(request, router, access, asked_at.clone())
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head_timeout)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), answer);
        tokio::select! {
            // What goes wrong on a connection is its peer's business.
            _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection) => {}
            () = place.lost() => {}
        }
        drop(taken);
    });
}

async fn answer(
    request: Request<Incoming>,
    router: Router,
    access: Arc<Access>,
    place: Arc<Place>,
) -> Result<Response<Told>, std::convert::Infallible> {
    let asked = place.asked();
    let response = answer_of(request, router, &access, place).await;
    if response.extensions().get::<GoesOn>().is_some() {
        asked.goes_on();
    }
    Ok(response.map(|body| Told { body, asked }))
}

async fn answer_of(
    request: Request<Incoming>,
    mut router: Router,
    access: &Access,
    place: Arc<Place>,
) -> Response<Body> {
    use tower_service::Service;
    if access.is_http
        && let Some(objection) = origin::objection(&request, access.token.is_empty())
    {
        return (StatusCode::FORBIDDEN, objection).into_response();
    }
    if !is_allowed(&request, &access.token) {
        let refusal = (
            StatusCode::UNAUTHORIZED,
            [(header::WWW_AUTHENTICATE, "Bearer")],
            "the token of [admin] is wanted: Authorization: Bearer TOKEN\n",
        );
        return refusal.into_response();
    }
    let request = request.map(|body| Body::new(Question { body, place }));
    let mut response = match router.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let nosniff = header::HeaderValue::from_static("nosniff");
    response
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

/// Whether a request bears the token. Health and the page's files tell nothing: those who look after health have no token, and the
/// page asks for it.
fn is_allowed<B>(request: &Request<B>, token: &str) -> bool {
    let path = request.uri().path();
    if token.is_empty() || matches!(path, "/healthz" | "/readyz") || page::has(path) {
        return true;
    }
    let borne = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    borne.is_some_and(|borne| is_same(borne.as_bytes(), token.as_bytes()))
}

/// In the same time whatever differs, so that the token can't be felt out byte by byte.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_bears_the_token_gets_more_than_health() {
        let request = |path: &str, authorization: &str| {
            Request::get(path)
                .header(header::AUTHORIZATION, authorization)
                .body(())
                .expect("a request")
        };
        for (path, authorization, token, is_right) in [
            ("/metrics", "", "", true),
            ("/metrics", "Bearer secret", "secret", true),
            ("/metrics", "Bearer secreT", "secret", false),
            ("/metrics", "Bearer secre", "secret", false),
            ("/metrics", "secret", "secret", false),
            ("/metrics", "", "secret", false),
            ("/healthz", "", "secret", true),
            ("/", "", "secret", true),
            ("/page.js", "", "secret", true),
            ("/api/v1/status", "", "secret", false),
        ] {
            assert_eq!(
                is_allowed(&request(path, authorization), token),
                is_right,
                "{path} {authorization}"
            );
        }
    }

    #[test]
    fn a_socket_that_was_left_behind_goes_and_any_other_file_stays() {
        let directory = std::env::temp_dir().join(format!("ringway-listen-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        tokio_uring::start(async {
            let file = directory.join("ringway.toml");
            std::fs::write(&file, "shards = 1").expect("written");
            let bounds = Bounds {
                connections_max: 4,
                head_timeout: Duration::from_secs(10),
                counts: Arc::default(),
            };
            let opened = unix(&file, Router::new(), bounds.clone()).await;
            let refused = opened.err().expect("no socket");
            assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(std::fs::read_to_string(&file).expect("still there"), "shards = 1");
            let left = directory.join("left.sock");
            drop(std::os::unix::net::UnixListener::bind(&left).expect("bound"));
            let socket = unix(&left, Router::new(), bounds).await.expect("in its place");
            assert!(UnixStream::connect(&left).await.is_ok());
            drop(socket);
            assert!(!left.exists());
        });
        std::fs::remove_dir_all(&directory).expect("to be removed");
    }
}
