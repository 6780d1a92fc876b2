//! What the keys of a rule can't be together, and what they mean with the listeners and trunks of their file.

use super::super::value::{Listen, near_miss};
use super::super::{ConfigError, Listener, Origin};
use super::{ACTIONS, Action, Fork, Route, To};

/// Where the keys of a rule that are told of were given.
pub(in crate::config) type OriginOf<'a> = &'a dyn Fn(&str) -> Option<Origin>;

/// A bit for each of `listeners` that `listen` covers.
fn bits_of(listen: &Listen, listeners: &[Listener]) -> u64 {
    let own = listeners.iter().enumerate();
    own.filter(|(_, own)| own.addr == listen.addr && listen.covers(own.transport))
        .fold(0, |bits, (index, _)| bits | 1 << index)
}

impl Route {
    /// Works out which of `listeners` the rule means.
    pub(in crate::config) fn find_listeners(&mut self, listeners: &[Listener]) {
        let named = self.listeners.iter();
        self.listener_bits = named.fold(0, |bits, listen| bits | bits_of(listen, listeners));
    }

    /// Completes a rule, and tells what its keys can't be together.
    pub(in crate::config) fn resolve(
        &mut self,
        listeners: &[Listener],
        trunks: &[&str],
        at: Origin,
        given: OriginOf<'_>,
        errors: &mut Vec<ConfigError>,
    ) {
        let mut wrong = |origin: Origin, key: &str, expected: &str, found: String, hint: Option<String>| {
            errors.push(ConfigError {
                origin,
                key: format!("route.{key}"),
                expected: expected.to_owned(),
                found,
                hint,
            });
        };
        self.find_listeners(listeners);
        for listen in &self.listeners {
            if bits_of(listen, listeners) == 0 {
                let known: Vec<String> = (listeners.iter())
                    .map(|own| format!("{}:{}", own.transport.name().to_ascii_lowercase(), own.addr))
                    .collect();
                wrong(
                    listen.origin,
                    "listener",
                    "an address of listen",
                    format!("\"{listen}\""),
                    Some(format!("ringway listens on {}", known.join(", "))),
                );
            }
        }
        // Where an entry stood does not make a rule another one.
        for listen in &mut self.listeners {
            listen.origin = Origin::Default;
        }
        if let (Fork::ByQ, To::Uris(places)) = (self.fork, &mut self.to) {
            // What is preferred comes first; among equals the order of the file stays.
            places.sort_by_key(|place| std::cmp::Reverse(place.q));
        }
        if given("action") == Some(Origin::Default) {
            let expected = "what to do with the requests that match";
            let hint = Some(format!("action is one of {}", ACTIONS.join(", ")));
            wrong(at, "action", expected, "nothing".to_owned(), hint);
            return;
        }
        let action = self.action;
        let is_given = |key: &str| given(key).filter(|origin| *origin != Origin::Default);
        // What only means something with some actions is no mistake to overlook elsewhere.
        let of: &[(&str, &[Action])] = &[
            ("to", &[Action::Proxy, Action::Redirect]),
            ("fork", &[Action::Proxy]),
            ("mode", &[Action::Proxy]),
            ("record_route", &[Action::Proxy]),
            ("add_path", &[Action::Proxy]),
            ("recurse", &[Action::Proxy]),
            ("tcp_when_large", &[Action::Proxy]),
            ("ring_s", &[Action::Proxy]),
            ("code", &[Action::Redirect, Action::Reject]),
            ("reason", &[Action::Redirect, Action::Reject]),
            ("retry_after_s", &[Action::Reject]),
            ("strip", &[Action::Ims, Action::Proxy]),
            ("prefix", &[Action::Ims, Action::Proxy]),
            ("set_user", &[Action::Ims, Action::Proxy]),
            ("set_host", &[Action::Ims, Action::Proxy]),
            ("set_header", &[Action::Ims, Action::Proxy]),
            (
                "add_header",
                &[Action::Ims, Action::Proxy, Action::Redirect, Action::Reject],
            ),
            ("remove_header", &[Action::Ims, Action::Proxy]),
        ];
        for (key, actions) in of {
            if let Some(origin) = is_given(key)
                && !actions.contains(&action)
            {
                let expected = format!("no {key} where action is {:?}", action.text());
                wrong(origin, key, &expected, "one".to_owned(), None);
            }
        }
        let needs_to = action == Action::Proxy || action == Action::Redirect;
        if needs_to && given("to").is_some() && self.to == To::Nowhere {
            let expected = format!("where to {}", action.text());
            wrong(
                is_given("to").unwrap_or(at),
                "to",
                &expected,
                "nothing".to_owned(),
                None,
            );
        }
        let to_origin = is_given("to").unwrap_or(at);
        match (&self.to, action) {
            (To::Registered | To::RequestUri | To::Trunk(_), Action::Redirect) => {
                wrong(to_origin, "to", "URIs", self.to.texts().join(", "), None);
            }
            (To::Trunk(name), _) if !trunks.contains(&name.as_str()) => {
                let hint = near_miss(name, trunks.iter().copied())
                    .map(|near| format!("did you mean \"trunk:{near}\"?"));
                wrong(
                    to_origin,
                    "to",
                    "a trunk of this file",
                    format!("\"trunk:{name}\""),
                    hint,
                );
            }
            (To::Nowhere | To::Registered | To::RequestUri | To::Trunk(_) | To::Uris(_), _) => {}
        }
        if self.stateless {
            let several = match &self.to {
                To::Uris(places) => places.len() > 1,
                To::Registered => true,
                To::Nowhere | To::RequestUri | To::Trunk(_) => false,
            };
            if several || matches!(self.to, To::Trunk(_)) {
                // RFC 3261 §16.11: a stateless proxy must not fork, and chooses the same target each time.
                let hint =
                    Some("without state a request goes to one place, and failures are not seen".to_owned());
                let expected = "\"request-uri\" or one URI where mode is \"stateless\"";
                wrong(to_origin, "to", expected, self.to.texts().join(", "), hint);
            }
            for key in ["fork", "recurse", "ring_s", "tcp_when_large"] {
                if let Some(origin) = is_given(key) {
                    let expected = format!("no {key} where mode is \"stateless\"");
                    wrong(origin, key, &expected, "one".to_owned(), None);
                }
            }
        }
        if let Some(origin) = is_given("code") {
            let (range, expected) = match action {
                Action::Redirect => (300..=399, "300 to 399 where action is \"redirect\""),
                Action::Reject => (400..=699, "400 to 699 where action is \"reject\""),
                Action::Ims | Action::Proxy | Action::Drop => (0..=699, ""),
            };
            if self.code != 0 && !range.contains(&self.code) {
                wrong(origin, "code", expected, self.code.to_string(), None);
            }
        }
        if let (Some(origin), false) = (is_given("set_user"), self.rewrite.user.is_empty())
            && (is_given("strip").is_some() || is_given("prefix").is_some())
        {
            let expected = "either set_user, or strip and prefix";
            wrong(origin, "set_user", expected, "both".to_owned(), None);
        }
    }
}
