//! A routing table in words.

use std::fmt::Write;

use crate::config::Config;
use crate::config::route::{Action, Fork, Route, To, UriMatch};
use crate::msg::status::reason_phrase;

/// The whole table, a rule a paragraph.
pub fn table(cfg: &Config) -> String {
    if cfg.routes.is_empty() {
        return "routes: none, so every request goes to the phone service\n".to_owned();
    }
    let mut text = "routes, the first that matches counts:\n".to_owned();
    for (index, route) in cfg.routes.iter().enumerate() {
        let _ = writeln!(text, "  {}: {}", title(route, index), condition(route));
        let _ = writeln!(text, "      {}", outcome(route));
    }
    text.push_str("  else: every other request\n      goes to the phone service\n");
    text
}

/// The rule's number, counted from 1, and its name.
pub fn title(route: &Route, index: usize) -> String {
    match route.name.as_str() {
        "" => format!("{}", index + 1),
        name => format!("{} \"{name}\"", index + 1),
    }
}

/// Which requests a rule is for.
pub fn condition(route: &Route) -> String {
    let mut text = match route.methods.texts.as_slice() {
        [] => "every request".to_owned(),
        methods => one_of(methods),
    };
    let mut also = |part: String| {
        text.push(' ');
        text.push_str(&part);
    };
    if !route.schemes.is_empty() {
        also(format!("to a {} URI", one_of(&route.schemes)));
    }
    if let Some(part) = of_uri(&route.request_uri) {
        also(format!("for {part}"));
    }
    if let Some(part) = of_uri(&route.from) {
        also(format!("whose From is {part}"));
    }
    if !route.sources.is_empty() {
        also(format!("sent by {}", one_of(&route.sources)));
    }
    if !route.listeners.is_empty() {
        also(format!("received on {}", one_of(&route.listeners)));
    }
    for (i, header) in route.headers.iter().enumerate() {
        let with = if i == 0 { "with" } else { "and" };
        also(match &header.pattern {
            None => format!("{with} {}", header.name),
            Some(pattern) => format!("{with} {} matching /{}/", header.name, pattern.text()),
        });
    }
    text
}

/// What becomes of those requests.
pub fn outcome(route: &Route) -> String {
    let mut text = match route.action {
        Action::Ims => "goes to the phone service".to_owned(),
        Action::Drop => "is dropped without an answer".to_owned(),
        Action::Reject => {
            let mut text = format!("is answered {}", status(route));
            if route.retry_after_s > 0 {
                let _ = write!(text, ", to be tried again after {} s", route.retry_after_s);
            }
            text
        }
        Action::Redirect => format!(
            "is answered {}, which names {}",
            status(route),
            route.to.texts().join(", ")
        ),
        Action::Proxy => forwarded(route),
    };
    let rewrite = &route.rewrite;
    if !rewrite.user.is_empty() {
        let _ = write!(text, "; its user part becomes {}", rewrite.user);
    }
    if rewrite.strip > 0 {
        let _ = write!(text, "; its user part loses the first {}", rewrite.strip);
    }
    if !rewrite.prefix.is_empty() {
        let _ = write!(text, "; {} is put before its user part", rewrite.prefix);
    }
    if !rewrite.host.is_empty() {
        let _ = write!(text, "; its host becomes {}", rewrite.host);
    }
    for line in &rewrite.set {
        let _ = write!(text, "; {} is set to {:?}", line.name, line.value);
    }
    for line in &rewrite.add {
        let _ = write!(text, "; \"{line}\" is added");
    }
    for name in &rewrite.remove {
        let _ = write!(text, "; {name} is left out");
    }
    text
}

fn forwarded(route: &Route) -> String {
    let mut text = match &route.to {
        To::Nowhere => "is forwarded".to_owned(),
        To::Registered => "is forwarded to the registered contacts".to_owned(),
        To::RequestUri => "is forwarded to where its request URI says".to_owned(),
        To::Trunk(name) => format!("is forwarded to trunk {name}"),
        To::Uris(places) => {
            let each: Vec<&str> = places.iter().map(|place| place.text.as_str()).collect();
            format!("is forwarded to {}", each.join(", "))
        }
    };
    let has_several = match &route.to {
        To::Registered => true,
        To::Uris(places) => places.len() > 1,
        To::Nowhere | To::RequestUri | To::Trunk(_) => false,
    };
    if has_several || route.recurse {
        let _ = match route.fork {
            Fork::ByQ => write!(text, ", those of equal q at once, {} s for each q", route.ring_s),
            Fork::Parallel => write!(text, ", to all at once"),
            Fork::Serial => write!(text, ", one after another, {} s each", route.ring_s),
        };
    }
    if route.stateless {
        text.push_str(", without state");
    }
    if !route.record_route {
        text.push_str(", and its dialog goes on without us");
    }
    if route.add_path {
        text.push_str("; a REGISTER gets our Path");
    }
    if route.recurse {
        text.push_str("; a redirection is followed");
    }
    if route.tcp_when_large {
        text.push_str("; over TCP when it is large");
    }
    text
}

fn status(route: &Route) -> String {
    let reason = match route.reason.as_str() {
        "" => reason_phrase(route.status()),
        reason => reason,
    };
    format!("{} {reason}", route.status())
}

fn of_uri(uri: &UriMatch) -> Option<String> {
    let mut parts = Vec::new();
    if !uri.users.is_empty() {
        parts.push(one_of(&uri.users));
    }
    if !uri.prefixes.is_empty() {
        let each: Vec<String> = uri.prefixes.iter().map(|prefix| format!("{prefix}...")).collect();
        parts.push(one_of(&each));
    }
    if let Some(pattern) = &uri.pattern {
        parts.push(format!("/{}/", pattern.text()));
    }
    let user = match parts.as_slice() {
        [] => None,
        parts => Some(parts.join(" and ")),
    };
    let hosts = (!uri.hosts.is_empty()).then(|| one_of(&uri.hosts));
    match (user, hosts) {
        (None, None) => None,
        (Some(user), None) => Some(user),
        (None, Some(hosts)) => Some(format!("anybody at {hosts}")),
        (Some(user), Some(hosts)) => Some(format!("{user} at {hosts}")),
    }
}

fn one_of(items: &[impl ToString]) -> String {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    match texts.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;

    #[test]
    fn a_table_reads_like_a_text() {
        let cfg = config(
            r#"
            [[route]]
            name = "home"
            method = ["REGISTER", "SUBSCRIBE"]
            action = "ims"
            [[route]]
            method = ["INVITE"]
            scheme = ["sip", "tel"]
            user_prefix = ["+49", "0"]
            host = ["example.com", "*.example.com"]
            source = ["10.0.0.0/8"]
            listener = ["udp:127.0.0.1:5060"]
            header = ["Privacy", "X-Tenant: gold"]
            action = "proxy"
            to = ["sip:10.0.0.1", "<sip:10.0.0.2>;q=0.5"]
            strip = 1
            prefix = "00"
            set_header = ["X-A: b"]
            [[route]]
            from_host = ["bad.example"]
            action = "reject"
            code = 503
            retry_after_s = 60
            "#,
        );
        assert_eq!(
            table(&cfg),
            "routes, the first that matches counts:\n\
             \x20 1 \"home\": REGISTER or SUBSCRIBE\n\
             \x20     goes to the phone service\n\
             \x20 2: INVITE to a sip or tel URI for +49... or 0... at example.com or *.example.com sent by 10.0.0.0/8 received on \
             udp:127.0.0.1:5060 with Privacy and X-Tenant matching /gold/\n\
             \x20     is forwarded to sip:10.0.0.1, <sip:10.0.0.2>;q=0.5, those of equal q at once, 30 s for each q; its user part \
             loses the first 1; 00 is put before its user part; X-A is set to \"b\"\n\
             \x20 3: every request whose From is anybody at bad.example\n\
             \x20     is answered 503 Service Unavailable, to be tried again after 60 s\n\
             \x20 else: every other request\n\
             \x20     goes to the phone service\n"
        );
        assert!(table(&config("")).starts_with("routes: none"));
    }
}
