//! Where a request goes: RFC 3261 §8.1.2 and RFC 3263 §4, for targets that are IP addresses.

use std::net::{IpAddr, SocketAddr};

use crate::config::{Config, Listener, ListenerState};
use crate::msg::lex::{self, Elements};
use crate::msg::name_addr::NameAddr;
use crate::msg::uri::{Scheme, Uri};
use crate::wire::{Flow, ListenerId, Transport};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RouteError {
    /// Not `sip:`.
    Scheme,
    /// The host is a name.
    HostName,
    /// A `transport` that ringway does not speak.
    Transport,
    /// No listener of that transport and address family to send from.
    NoListener,
    /// The target is a listener of ours.
    Ourselves,
    /// No one host: port 0, the unspecified address, a broadcast or multicast address.
    NotOneHost,
}

/// The port of SIP over UDP and TCP (RFC 3261 §19.1.2).
const PORT_DEFAULT: u16 = 5060;

/// What `uri` says of where it leads: transport and address.
pub fn destination(uri: &Uri<'_>) -> Result<(Transport, SocketAddr), RouteError> {
    if uri.scheme != Scheme::Sip {
        return Err(RouteError::Scheme);
    }
    let transport = match uri.transport() {
        // RFC 3263 §4.1: an IP address without a transport parameter means UDP.
        None => Transport::Udp,
        Some(name) if name.eq_ignore_ascii_case(b"udp") => Transport::Udp,
        Some(name) if name.eq_ignore_ascii_case(b"tcp") => Transport::Tcp,
        Some(_) => return Err(RouteError::Transport),
    };
    let ip = match uri.param(b"maddr").and_then(lex::host_ip) {
        Some(ip) => ip,
        None => uri.host_ip().ok_or(RouteError::HostName)?,
    };
    Ok((transport, SocketAddr::new(ip, uri.port.unwrap_or(PORT_DEFAULT))))
}

/// The flow to `uri`. `prefer` is a flow that the same peer used before: its listener is kept where transport and family
/// fit, and its connection where the target wants TCP and it is one.
pub fn route(cfg: &Config, uri: &Uri<'_>, prefer: Option<Flow>) -> Result<Flow, RouteError> {
    flow_to(cfg, destination(uri)?, prefer)
}

/// The same where the [`destination`] is known.
pub fn flow_to(
    cfg: &Config,
    (transport, peer): (Transport, SocketAddr),
    prefer: Option<Flow>,
) -> Result<Flow, RouteError> {
    let ip = peer.ip();
    if peer.port() == 0 || !is_one_host(ip.to_canonical()) {
        return Err(RouteError::NotOneHost);
    }
    if cfg.listeners.iter().any(|listener| {
        listener.addr.port() == peer.port()
            && listener.transport == transport
            && listener.is_ours()
            && cfg.is_address_of(listener, ip)
    }) {
        return Err(RouteError::Ourselves);
    }
    let listener =
        listener_for(cfg, transport, ip, prefer.map(|flow| flow.listener)).ok_or(RouteError::NoListener)?;
    let conn = match transport {
        Transport::Udp => None,
        Transport::Tcp => prefer.and_then(|flow| flow.conn),
    };
    Ok(Flow {
        transport,
        listener,
        peer,
        conn,
    })
}

/// The first hop of a path, which is comma-separated as in a Route: where requests to the contact behind it go (RFC 3327 §5.4).
pub fn path_hop(path: &[u8]) -> Result<Uri<'_>, RouteError> {
    let hop = Elements::new(path).next().and_then(NameAddr::uri_of);
    hop.and_then(|uri| Uri::parse(uri).ok()).ok_or(RouteError::Scheme)
}

/// The flow to the first hop of a path. `came_over` is what the REGISTER with this path came over.
pub fn path_flow(cfg: &Config, hop: &Uri<'_>, came_over: Flow) -> Result<Flow, RouteError> {
    let flow = flow_to(cfg, destination(hop)?, Some(came_over))?;
    Ok(to_path(flow, came_over))
}

/// `flow` as it leads to the first hop of a path, which need not be who sent the REGISTER: then the connection that `came_over` names is none
/// to it.
pub fn to_path(flow: Flow, came_over: Flow) -> Flow {
    let conn = flow.conn.filter(|_| flow.peer.ip() == came_over.peer.ip());
    Flow { conn, ..flow }
}

/// RFC 5626 §4.3: whether whoever has this Contact asks for the requests of its dialogs over the flow that it has opened.
pub fn wants_flow(contact: &Uri<'_>) -> bool {
    contact.param(b"ob").is_some()
}

/// Not the unspecified address, a broadcast or a multicast address.
pub fn is_one_host(ip: IpAddr) -> bool {
    let is_broadcast = match ip {
        IpAddr::V4(ip) => ip.is_broadcast(),
        IpAddr::V6(_) => false,
    };
    !(ip.is_unspecified() || ip.is_multicast() || is_broadcast)
}

/// The listener to send from: the one named if it fits, else one at the same address, else the first that fits. One that a reload has
/// taken out serves only where there is no other.
pub fn listener_for(
    cfg: &Config,
    transport: Transport,
    ip: IpAddr,
    like: Option<ListenerId>,
) -> Option<ListenerId> {
    let could = |listener: &Listener, state| {
        listener.state == state && listener.transport == transport && listener.addr.is_ipv4() == ip.is_ipv4()
    };
    let fits = |listener: &Listener| could(listener, ListenerState::Open);
    let id = |index: usize| ListenerId(index as u16);
    if let Some(like) = like {
        let wanted = cfg.listeners.get(usize::from(like.0))?;
        if fits(wanted) {
            return Some(like);
        }
        if let Some(index) = cfg
            .listeners
            .iter()
            .position(|l| fits(l) && l.addr == wanted.addr)
        {
            return Some(id(index));
        }
        if let Some(index) = cfg
            .listeners
            .iter()
            .position(|l| fits(l) && l.addr.ip() == wanted.addr.ip())
        {
            return Some(id(index));
        }
    }
    let leaves = |listener: &Listener| could(listener, ListenerState::Leaving);
    let like_leaves = like.filter(|like| cfg.listeners.get(usize::from(like.0)).is_some_and(leaves));
    let open = cfg.listeners.iter().position(fits).map(id);
    open.or(like_leaves)
        .or_else(|| cfg.listeners.iter().position(leaves).map(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ConnId, ShardId};

    fn cfg() -> Config {
        let listener = |transport, addr: &str| Listener {
            transport,
            addr: addr.parse().expect("an address"),
            advertised: addr.to_owned(),
            state: ListenerState::Open,
        };
        Config {
            listeners: vec![
                listener(Transport::Udp, "127.0.0.1:5060"),
                listener(Transport::Tcp, "127.0.0.1:5060"),
                listener(Transport::Udp, "127.0.0.2:5070"),
                listener(Transport::Tcp, "127.0.0.2:5070"),
                listener(Transport::Udp, "[::1]:5060"),
            ],
            ..Config::default()
        }
    }

    fn to(uri: &str, prefer: Option<Flow>) -> Result<(Transport, u16, String), RouteError> {
        let uri = Uri::parse(uri.as_bytes()).expect("a URI");
        route(&cfg(), &uri, prefer).map(|flow| (flow.transport, flow.listener.0, flow.peer.to_string()))
    }

    #[test]
    fn the_transport_parameter_decides_and_udp_is_the_default() {
        assert_eq!(
            to("sip:a@127.0.0.9:5099", None),
            Ok((Transport::Udp, 0, "127.0.0.9:5099".into()))
        );
        assert_eq!(
            to("sip:a@127.0.0.9", None),
            Ok((Transport::Udp, 0, "127.0.0.9:5060".into()))
        );
        assert_eq!(
            to("sip:a@127.0.0.9;transport=TCP", None),
            Ok((Transport::Tcp, 1, "127.0.0.9:5060".into()))
        );
        assert_eq!(
            to("sip:a@[::1]:5099", None),
            Ok((Transport::Udp, 4, "[::1]:5099".into()))
        );
    }

    #[test]
    fn what_cannot_be_reached_is_said() {
        assert_eq!(to("sip:a@phone.example", None), Err(RouteError::HostName));
        assert_eq!(
            to("sip:a@127.0.0.9;transport=sctp", None),
            Err(RouteError::Transport)
        );
        assert_eq!(to("tel:+49", None), Err(RouteError::Scheme));
        assert_eq!(
            to("sip:a@[::1]:5099;transport=tcp", None),
            Err(RouteError::NoListener)
        );
        for ours in [
            "sip:a@127.0.0.2:5070",
            "sip:a@[::ffff:127.0.0.2]:5070",
            "sip:a@[::ffff:7f00:2]:5070;transport=tcp",
            "sip:a@example.com:5070;maddr=[::ffff:127.0.0.2]",
        ] {
            assert_eq!(to(ours, None), Err(RouteError::Ourselves), "{ours}");
        }
        for nobody in [
            "sip:a@0.0.0.0",
            "sip:a@255.255.255.255",
            "sip:a@224.0.1.75",
            "sip:a@127.0.0.9;maddr=239.255.255.1",
            "sip:a@[::]",
            "sip:a@[ff02::1]",
            "sip:a@[::ffff:224.0.1.75]",
        ] {
            assert_eq!(to(nobody, None), Err(RouteError::NotOneHost), "{nobody}");
        }
    }

    #[test]
    fn what_is_bound_to_all_addresses_is_reached_by_each() {
        let mut cfg = cfg();
        cfg.listeners[0].addr = ([0, 0, 0, 0], 5060).into();
        cfg.local_addresses = vec![[10, 9, 8, 7].into()];
        for (uri, error) in [
            ("sip:a@10.9.8.7", Some(RouteError::Ourselves)),
            ("sip:a@127.0.0.99", Some(RouteError::Ourselves)),
            ("sip:a@10.9.8.7:5099", None),
            ("sip:a@10.9.8.8", None),
        ] {
            let parsed = Uri::parse(uri.as_bytes()).expect("a URI");
            assert_eq!(route(&cfg, &parsed, None).err(), error, "{uri}");
        }
    }

    #[test]
    fn a_path_leads_to_its_first_hop() {
        let came_over = Flow {
            transport: Transport::Tcp,
            listener: ListenerId(3),
            peer: "127.0.0.9:5060".parse().expect("an address"),
            conn: Some(ConnId {
                shard: ShardId(0),
                slot: 7,
                generation: 1,
            }),
        };
        let to = |path: &str| {
            path_hop(path.as_bytes())
                .and_then(|hop| path_flow(&cfg(), &hop, came_over))
                .map(|flow| (flow.transport, flow.peer.to_string(), flow.conn.is_some()))
        };
        assert_eq!(
            to("\"a, b\" <sip:p@127.0.0.8:5099;lr;ob>;x=y, <sip:127.0.0.9;lr>"),
            Ok((Transport::Udp, "127.0.0.8:5099".into(), false))
        );
        assert_eq!(
            to("<sip:127.0.0.9;transport=tcp;lr>"),
            Ok((Transport::Tcp, "127.0.0.9:5060".into(), true)),
            "its own connection"
        );
        assert_eq!(
            to("<sip:127.0.0.8;transport=tcp;lr>"),
            Ok((Transport::Tcp, "127.0.0.8:5060".into(), false))
        );
        assert_eq!(to("<sip:edge.example;lr>"), Err(RouteError::HostName));
        assert_eq!(to("<sip:127.0.0.2:5070;lr>"), Err(RouteError::Ourselves));
        assert_eq!(to("tel:+49"), Err(RouteError::Scheme));
    }

    #[test]
    fn the_listener_that_the_peer_used_is_kept() {
        let prefer = Flow {
            transport: Transport::Tcp,
            listener: ListenerId(3),
            peer: "127.0.0.9:40000".parse().expect("an address"),
            conn: None,
        };
        assert_eq!(
            to("sip:a@127.0.0.9:5099", Some(prefer)).map(|r| r.1),
            Ok(2),
            "its UDP sibling"
        );
        assert_eq!(
            to("sip:a@127.0.0.9:5099;transport=tcp", Some(prefer)).map(|r| r.1),
            Ok(3)
        );
    }
}
