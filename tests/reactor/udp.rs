//! Datagrams.

use std::net::{IpAddr, UdpSocket};

use ringway::config::{Gro, KernelLevel, Listener, Segment};
use ringway::metrics::DropReason;
use ringway::pool::Marks;
use ringway::wire::{CloseReason, ListenerId, Transport};

use crate::at_every_level;
use crate::harness::*;

at_every_level!(
    datagrams_of_every_size_come_back_whole,
    a_burst_of_datagrams_is_echoed_in_order,
    answers_leave_from_the_socket_that_was_asked,
    a_datagram_that_cannot_be_sent_is_reported_and_the_rest_goes_on,
    a_flood_of_datagrams_does_not_starve_tcp,
    shards_on_one_address_share_the_datagrams,
    what_finds_the_send_buffer_full_leaves_later_and_in_order,
    what_waits_for_one_peer_leaves_in_runs_and_in_order,
    what_was_sent_in_runs_is_received_in_runs_and_in_order,
    lengths_are_made_equal_by_white_space_where_it_is_marked,
    a_run_that_is_refused_leaves_singly_and_is_the_last_to_its_peer,
    a_datagram_counts_as_received_when_it_came_not_when_it_was_read,
);

fn echoes_on(ip: IpAddr, level: Level) {
    let server = Server::start(level, &config(ip), echo);
    let client = udp_client(&server);
    // 65,507 is the most that UDP over IPv4 carries; IPv6 takes a little more.
    for len in [0, 1, 600, 1_472, 1_473, 4_096, 9_000, 65_506, 65_507] {
        let sent = pattern(len, len as u64);
        client.send(&sent).expect("sent");
        let mut back = vec![0; 70_000];
        let count = client.recv(&mut back).expect("an echo");
        assert!(
            back[..count] == sent,
            "{len} bytes came back as {count}, or changed"
        );
    }
    server.until("counted", |server| {
        let metrics = server.metrics(0);
        (metrics.datagrams_in.get(), metrics.datagrams_out.get()) == (9, 9)
    });
    server.stop();
}

fn datagrams_of_every_size_come_back_whole(level: Level) {
    echoes_on(LOOPBACK, level);
    if has_ipv6() {
        echoes_on(LOOPBACK_6, level);
    }
}

fn a_burst_of_datagrams_is_echoed_in_order(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), echo);
    let client = udp_client(&server);
    // Several full batches and a short one.
    for round in 0..5u32 {
        for number in 0..150u32 {
            client.send(&(round * 150 + number).to_be_bytes()).expect("sent");
        }
        for number in 0..150u32 {
            let mut back = [0; 16];
            assert_eq!(client.recv(&mut back).expect("an echo"), 4);
            assert_eq!(back[..4], (round * 150 + number).to_be_bytes());
        }
    }
    server.stop();
}

fn answers_leave_from_the_socket_that_was_asked(level: Level) {
    let mut cfg = config(LOOPBACK);
    let more = |ip: IpAddr| Listener {
        transport: Transport::Udp,
        addr: (ip, 0).into(),
        advertised: String::new(),
        state: ringway::config::ListenerState::Open,
    };
    cfg.listeners
        .extend([more([127, 0, 0, 2].into()), more(LOOPBACK)]);
    let server = Server::start(level, &cfg, echo);
    for index in [0, 2, 3] {
        let listener = &server.listeners[index];
        let client = UdpSocket::bind((LOOPBACK, 0)).expect("a socket");
        client.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        client.send_to(b"who are you", listener.addr).expect("sent");
        let (_, from) = client.recv_from(&mut [0; 100]).expect("an echo");
        assert_eq!(from, listener.addr);
        let flow = server.wait_for(0, |seen| match seen {
            Seen::Datagram { flow, .. } => Some(*flow),
            _ => None,
        });
        assert_eq!(flow.listener, ListenerId(index as u16));
        assert_eq!(flow.peer, client.local_addr().expect("an address"));
        assert_eq!(flow.conn, None);
    }
    server.stop();
}

fn a_datagram_that_cannot_be_sent_is_reported_and_the_rest_goes_on(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), listen);
    let client = udp_client(&server);
    let good = flow_to(Transport::Udp, client.local_addr().expect("an address"));
    // Port 0 is no destination, and 65,508 bytes are one too many.
    let nowhere = flow_to(Transport::Udp, (LOOPBACK, 0).into());
    let mut orders = Vec::new();
    for number in 0..100u8 {
        orders.push(match number {
            10 => send(nowhere, b"lost", Some(op(10))),
            70 => send(good, &pattern(65_508, 0), Some(op(70))),
            80 => send(nowhere, b"nobody asks", None),
            _ => send(good, &[number], Some(op(u32::from(number)))),
        });
    }
    server.order(0, orders);
    // What waits for one peer leaves before what waits for the next.
    assert_eq!(server.send_failed(0), (op(70), CloseReason::Reset));
    assert_eq!(server.send_failed(0), (op(10), CloseReason::Reset));
    for number in (0..100u8).filter(|number| ![10, 70, 80].contains(number)) {
        let mut back = [0; 16];
        assert_eq!(client.recv(&mut back).expect("a datagram"), 1);
        assert_eq!(back[0], number);
    }
    let metrics = server.metrics(0);
    assert_eq!(metrics.drops[DropReason::SendError as usize].get(), 3);
    server.until("counted", |server| server.metrics(0).datagrams_out.get() == 97);
    server.stop();
}

fn a_flood_of_datagrams_does_not_starve_tcp(level: Level) {
    use std::io::{Read, Write};
    use std::sync::atomic::{AtomicBool, Ordering};
    let server = Server::start(level, &config(LOOPBACK), echo);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = udp_client(&server);
        scope.spawn(|| {
            let client = client;
            client.set_nonblocking(true).expect("non-blocking");
            while !stop.load(Ordering::Relaxed) {
                let _ = client.send(&[1; 100]);
                let _ = client.recv(&mut [0; 200]);
            }
        });
        let mut tcp = tcp_client(&server);
        for number in 0..100u8 {
            tcp.write_all(&[number; 10]).expect("sent");
            let mut back = [0; 10];
            tcp.read_exact(&mut back).expect("an echo");
            assert_eq!(back, [number; 10]);
        }
        stop.store(true, Ordering::Relaxed);
    });
    server.stop();
}

fn shards_on_one_address_share_the_datagrams(level: Level) {
    let mut cfg = config(LOOPBACK);
    cfg.shards = 2;
    let server = Server::start(level, &cfg, echo);
    // The kernel chooses by a hash of both addresses: of 64 clients some fall to each.
    for number in 0..64u8 {
        let client = udp_client(&server);
        client.send(&[number]).expect("sent");
        let mut back = [0; 16];
        assert_eq!(client.recv(&mut back).expect("an echo"), 1);
        assert_eq!(back[0], number);
    }
    let counts = [0, 1].map(|shard| server.metrics(shard).datagrams_in.get());
    assert_eq!(counts.iter().sum::<u64>(), 64);
    assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
    server.stop();
}

/// Set in the process whose loopback interface is slow.
const SLOW_LOOPBACK: &str = "RINGWAY_TEST_SLOW_LOOPBACK";
/// A network namespace of its own, with a loopback interface of 20 Mbit/s.
const SLOW: &str = "ip link set lo up && tc qdisc add dev lo root tbf rate 20mbit burst 20kb limit 50mb";

fn what_finds_the_send_buffer_full_leaves_later_and_in_order(level: Level) {
    if std::env::var_os(SLOW_LOOPBACK).is_none() {
        let slowed = |then: &str| {
            let mut command = std::process::Command::new("unshare");
            command.args([
                "--map-root-user",
                "--net",
                "sh",
                "-c",
                &format!("{SLOW} && {then}"),
            ]);
            command
        };
        if !slowed("true")
            .output()
            .is_ok_and(|output| output.status.success())
        {
            eprintln!("skipped: it takes unshare, ip and tc, and the right to use them");
            return;
        }
        let name = "what_finds_the_send_buffer_full_leaves_later_and_in_order";
        return again(
            slowed("exec \"$0\" --exact --nocapture \"$1\""),
            "udp",
            name,
            level,
            SLOW_LOOPBACK,
        );
    }
    // The socket's buffer (8 MiB, in which a datagram that leaves alone takes 2,304 bytes) and what may wait besides (4 MiB) hold it
    // all.
    const COUNT: u32 = 4_300;
    let mut cfg = config(LOOPBACK);
    cfg.udp.segment = Segment::Off;
    let server = Server::start(level, &cfg, listen);
    let client = udp_client(&server);
    // The reader may be kept waiting on a busy machine.
    let _ = socket2::SockRef::from(&client).set_recv_buffer_size(4 << 20);
    let flow = flow_to(Transport::Udp, client.local_addr().expect("an address"));
    let mut message = pattern(1_000, 8);
    let mut orders = Vec::new();
    for number in 0..COUNT {
        message[..4].copy_from_slice(&number.to_be_bytes());
        orders.push(send(flow, &message, None));
    }
    server.order(0, orders);
    for number in 0..COUNT {
        message[..4].copy_from_slice(&number.to_be_bytes());
        let mut back = [0; 2_000];
        let count = client.recv(&mut back).expect("a datagram");
        assert!(back[..count] == message, "after {number}");
    }
    assert!(
        server.metrics(0).datagrams_held.get() > 0,
        "the buffer never was full"
    );
    assert_eq!(server.metrics(0).drops[DropReason::SendError as usize].get(), 0);
    server.stop();
}

/// What a client receives, `count` datagrams.
fn received(client: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let mut back = vec![0; 70_000];
    (0..count)
        .map(|_| {
            let len = client.recv(&mut back).expect("a datagram");
            back[..len].to_vec()
        })
        .collect()
}

fn what_waits_for_one_peer_leaves_in_runs_and_in_order(level: Level) {
    for segment in [Segment::Auto, Segment::Off] {
        for ip in [LOOPBACK, LOOPBACK_6] {
            if ip == LOOPBACK_6 && !has_ipv6() {
                continue;
            }
            let mut cfg = config(ip);
            cfg.udp.segment = segment;
            let server = Server::start(level, &cfg, listen);
            let clients = [udp_client(&server), udp_client(&server)];
            let flows = clients
                .each_ref()
                .map(|client| flow_to(Transport::Udp, client.local_addr().expect("an address")));
            // Runs of one length, longer and shorter ones in between, and some that are a run with nobody.
            let message = |number: usize| {
                pattern(
                    [500, 500, 500, 1_400, 499, 501, 0, 5_000][number % 29 % 8],
                    number as u64,
                )
            };
            let orders = (0..120)
                .map(|number| send(flows[number % 2], &message(number), None))
                .collect();
            server.order(0, orders);
            for (index, client) in clients.iter().enumerate() {
                let sent: Vec<_> = (0..60).map(|number| message(2 * number + index)).collect();
                assert!(received(client, 60) == sent, "changed, or in another order");
            }
            server.until("counted", |server| server.metrics(0).datagrams_out.get() == 120);
            let metrics = server.metrics(0);
            let (runs, in_runs) = (metrics.runs_out.get(), metrics.run_datagrams_out.get());
            match segment {
                Segment::Auto => assert!(runs > 0 && in_runs >= 2 * runs, "{runs} {in_runs}"),
                Segment::Off => assert_eq!((runs, in_runs), (0, 0)),
            }
            assert_eq!(metrics.runs_refused.get(), 0);
            server.stop();
        }
    }
}

/// Older kernels cut a run before it leaves by loopback.
const LOOPBACK_KEEPS_RUNS: KernelLevel = KernelLevel { major: 5, minor: 11 };

fn what_was_sent_in_runs_is_received_in_runs_and_in_order(level: Level) {
    let kernel = ringway::io::probe::Features::probe().expect("io_uring").kernel();
    for gro in [Gro::Auto, Gro::Off] {
        for ip in [LOOPBACK, LOOPBACK_6] {
            if ip == LOOPBACK_6 && !has_ipv6() {
                continue;
            }
            let mut cfg = config(ip);
            cfg.udp.gro = gro;
            let receiver = Server::start(level, &cfg, listen);
            let sender = Server::start(level, &config(ip), listen);
            // Runs of one length, shorter ones behind them, lone ones, an empty one, and more than a turn takes.
            let message = |number: usize| {
                let len = match number % 100 {
                    0..80 => 500,
                    80 => 20,
                    81 => 0,
                    82 => 5_000,
                    _ => 700,
                };
                pattern(len, number as u64)
            };
            let flow = flow_to(Transport::Udp, receiver.addr());
            for turn in 0..10 {
                let orders = (0..200).map(|number| send(flow, &message(200 * turn + number), None));
                sender.order(0, orders.collect());
                for number in 0..200 {
                    let got = receiver.wait_for(0, |seen| match seen {
                        Seen::Datagram { bytes, .. } => Some(bytes.clone()),
                        _ => None,
                    });
                    assert!(
                        got == message(200 * turn + number),
                        "{turn}: {number} of {}",
                        got.len()
                    );
                }
            }
            receiver.until("counted", |server| server.metrics(0).datagrams_in.get() == 2_000);
            let metrics = receiver.metrics(0);
            let (runs, in_runs) = (metrics.runs_in.get(), metrics.run_datagrams_in.get());
            match gro {
                Gro::Auto if kernel >= LOOPBACK_KEEPS_RUNS => {
                    assert!(runs > 0 && in_runs >= 2 * runs, "{runs} {in_runs}");
                }
                Gro::Auto | Gro::Off => assert_eq!((runs, in_runs), (0, 0)),
            }
            assert_eq!(metrics.drops[DropReason::Garbage as usize].get(), 0);
            sender.stop();
            receiver.stop();
        }
    }
}

/// A message of `len` bytes with its place for white space behind "Via:" and the name of its call.
fn marked(flow: ringway::wire::Flow, call: u8, len: usize) -> Order {
    let mut bytes = vec![b'-'; len];
    bytes[..6].copy_from_slice(b"Via: |");
    bytes[10] = call;
    bytes[len - 1] = b'.';
    let mut marks = Marks::default();
    marks.mark_padding(5);
    marks.mark_call(10, 11);
    Order::SendMarked { flow, bytes, marks }
}

fn lengths_are_made_equal_by_white_space_where_it_is_marked(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), listen);
    let client = udp_client(&server);
    let flow = flow_to(Transport::Udp, client.local_addr().expect("an address"));
    let orders = (0..100u8)
        .map(|number| marked(flow, number, 400 + usize::from(number) % 50))
        .collect();
    server.order(0, orders);
    let mut calls = Vec::new();
    for bytes in received(&client, 100) {
        let rest = bytes.strip_prefix(b"Via: ").expect("the beginning");
        let spaces = rest.iter().take_while(|&&byte| byte == b' ').count();
        let (rest, call) = (&rest[spaces..], rest[spaces + 5]);
        assert_eq!(
            rest.len() + 5,
            400 + usize::from(call) % 50,
            "nothing else is added or lost"
        );
        assert!(rest.starts_with(b"|") && rest.ends_with(b"."));
        // All 64 of a run, and the 36 of the next, are of the length of their longest.
        assert_eq!(bytes.len(), 449);
        calls.push(call);
    }
    assert!(calls.into_iter().eq(0..100));
    server.until("counted", |server| {
        server.metrics(0).run_datagrams_out.get() == 100
    });
    assert_eq!(server.metrics(0).runs_out.get(), 2);

    // One alone is sent as it is.
    server.order(0, vec![marked(flow, 7, 407)]);
    assert_eq!(received(&client, 1)[0].len(), 407);
    server.stop();
}

/// Set in the process whose loopback interface has a small MTU.
const NARROW_LOOPBACK: &str = "RINGWAY_TEST_NARROW_LOOPBACK";

fn a_run_that_is_refused_leaves_singly_and_is_the_last_to_its_peer(level: Level) {
    if std::env::var_os(NARROW_LOOPBACK).is_none() {
        let narrowed = |then: &str| {
            let mut command = std::process::Command::new("unshare");
            let script = format!("ip link set lo up mtu 1280 && {then}");
            command.args(["--map-root-user", "--net", "sh", "-c", &script]);
            command
        };
        if !narrowed("true")
            .output()
            .is_ok_and(|output| output.status.success())
        {
            eprintln!("skipped: it takes unshare and ip, and the right to use them");
            return;
        }
        let name = "a_run_that_is_refused_leaves_singly_and_is_the_last_to_its_peer";
        let command = narrowed("exec \"$0\" --exact --nocapture \"$1\"");
        return again(command, "udp", name, level, NARROW_LOOPBACK);
    }
    let server = Server::start(level, &config(LOOPBACK), listen);
    let (client, other) = (udp_client(&server), udp_client(&server));
    let flows =
        [&client, &other].map(|client| flow_to(Transport::Udp, client.local_addr().expect("an address")));
    // Segments of 1,400 bytes are none on this interface; alone they are cut into fragments.
    let message = |number: u64| pattern(1_400, number);
    for round in [0, 10] {
        let mut orders: Vec<_> = (round..round + 10)
            .map(|number| send(flows[0], &message(number), None))
            .collect();
        orders.extend((0..10).map(|number| send(flows[1], &pattern(600, number), None)));
        server.order(0, orders);
        let sent: Vec<_> = (round..round + 10).map(message).collect();
        assert!(
            received(&client, 10) == sent,
            "changed, lost, or in another order"
        );
        let sent: Vec<_> = (0..10).map(|number| pattern(600, number)).collect();
        assert!(received(&other, 10) == sent, "the other peer still gets runs");
        server.until("counted", |server| {
            server.metrics(0).datagrams_out.get() == 2 * (round + 10)
        });
        let metrics = server.metrics(0);
        assert_eq!(metrics.runs_refused.get(), 1, "once, then for good");
        assert_eq!(metrics.runs_out.get(), 1 + round / 10);
        assert_eq!(metrics.drops[DropReason::SendError as usize].get(), 0);
    }
    server.stop();
}

fn a_datagram_counts_as_received_when_it_came_not_when_it_was_read(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), listen);
    let client = udp_client(&server);
    let started = server.clock.now();
    let paused = server.pause(0, Vec::new());
    // More than a batch, so that the last is read by a later call than the first.
    for number in 0..100u32 {
        client.send(&number.to_be_bytes()).expect("sent");
    }
    let all_sent = server.clock.now();
    paused.go_on();
    for number in 0..100u32 {
        let (bytes, received_at) = server.wait_for(0, |seen| match seen {
            Seen::Datagram {
                bytes, received_at, ..
            } => Some((bytes.clone(), *received_at)),
            _ => None,
        });
        assert_eq!(bytes, number.to_be_bytes());
        assert!(received_at <= all_sent, "it came before it was read");
        assert!(started.since(received_at) < PATIENCE, "it is on our clock");
    }
    server.stop();
}
