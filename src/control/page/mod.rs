//! The live page: a document, its style and its scripts, as they lie beside this file. What it shows it asks of `/api/v1/`, as any
//! program does; nothing comes from elsewhere.

use axum::Router;
use axum::http::header;
use axum::routing::get;

struct File {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

const FILES: &[File] = &[
    File {
        path: "/",
        content_type: "text/html; charset=utf-8",
        text: include_str!("index.html"),
    },
    File {
        path: "/page.css",
        content_type: "text/css; charset=utf-8",
        text: include_str!("page.css"),
    },
    File {
        path: "/page.js",
        content_type: JAVASCRIPT,
        text: include_str!("page.js"),
    },
    File {
        path: "/ask.js",
        content_type: JAVASCRIPT,
        text: include_str!("ask.js"),
    },
    File {
        path: "/draw.js",
        content_type: JAVASCRIPT,
        text: include_str!("draw.js"),
    },
    File {
        path: "/calls.js",
        content_type: JAVASCRIPT,
        text: include_str!("calls.js"),
    },
    File {
        path: "/icon.svg",
        content_type: "image/svg+xml",
        text: include_str!("icon.svg"),
    },
];

/// What the page may do: run its own files and ask its own server. Texts that peers sent can't become markup or script even by
/// mistake, since no string may (Trusted Types), and nobody may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// The page's files, each at its path.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().fold(Router::new(), |router, file| {
        let answer = (
            [
                (header::CONTENT_TYPE, file.content_type),
                (header::CONTENT_SECURITY_POLICY, POLICY),
                (header::CACHE_CONTROL, "no-cache"),
                (header::REFERRER_POLICY, "no-referrer"),
            ],
            file.text,
        );
        router.route(file.path, get(move || async move { answer }))
    })
}

/// Whether this is a file of the page: they tell nothing of the server, and whoever is to type a token needs them before.
pub fn has(path: &str) -> bool {
    FILES.iter().any(|file| file.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_the_page_refers_to_is_there_and_nothing_comes_from_elsewhere() {
        let quoted = |text: &'static str, before: &'static str| {
            text.split(before)
                .skip(1)
                .filter_map(|rest| rest.split('"').next())
                .collect::<Vec<_>>()
        };
        for file in FILES {
            for before in ["src=\"", "href=\"", "from \""] {
                for name in quoted(file.text, before) {
                    let path = format!("/{}", name.trim_start_matches("./"));
                    assert!(has(&path) || name.starts_with('#'), "{}: {name}", file.path);
                }
            }
            for foreign in [
                "https://",
                "//cdn",
                "@import",
                "innerHTML",
                "document.write",
                " style=\"",
            ] {
                assert!(!file.text.contains(foreign), "{}: {foreign}", file.path);
            }
        }
        assert!(!has("/metrics"));
    }
}
