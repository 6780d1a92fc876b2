//! Connections.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use ringway::metrics::DropReason;
use ringway::wire::{CloseReason, Effects, Event, Flow, ShardId, Transport, TxOp};

use crate::at_every_level;
use crate::harness::*;

at_every_level!(
    a_stream_comes_back_whole_however_it_is_cut,
    pipelined_messages_of_many_connections_come_back_in_order,
    two_thousand_connections_are_served_at_once,
    a_connection_is_opened_once_and_used_again,
    an_accepted_connection_is_found_by_its_peer,
    what_is_queued_while_connecting_leaves_in_order,
    a_refused_connection_fails_every_message_and_then_closes,
    an_address_without_a_route_fails_cleanly,
    an_answer_that_can_not_leave_comes_back,
    answers_that_were_sent_do_not_come_back,
    a_connection_to_ourselves_works_like_any_other,
    a_stalled_reader_costs_only_its_own_connection,
    one_turn_may_say_more_than_may_wait_to_who_reads,
    stalled_readers_together_have_a_limit_and_the_longest_stalled_goes_first,
    a_reader_that_stalls_for_too_long_loses_its_connection,
    a_shard_that_many_connections_keep_busy_knows_how_long_they_wait,
    what_a_connection_had_waiting_when_it_was_cut_off_is_forgotten,
    a_shard_that_one_connection_keeps_busy_knows_how_long_it_waits,
    a_peer_that_closes_its_side_still_gets_its_answer,
    a_reset_closes_the_connection_and_fails_what_was_queued,
    what_a_closing_peer_may_not_have_read_fails,
    closing_sends_what_is_queued_first,
    nothing_is_heard_of_a_connection_after_it_was_closed,
    a_message_for_a_connection_that_is_gone_goes_to_its_peer,
    dropping_a_busy_reactor_closes_everything,
);

fn echoes_on(ip: IpAddr, level: Level) {
    let server = Server::start(level, &config(ip), echo);
    let mut client = tcp_client(&server);
    let sent = pattern(200_000, 1);
    let (mut at, mut len) = (0, 1);
    while at < sent.len() {
        let end = sent.len().min(at + len);
        client.write_all(&sent[at..end]).expect("sent");
        let mut back = vec![0; end - at];
        client.read_exact(&mut back).expect("an echo");
        assert!(back == sent[at..end], "changed between {at} and {end}");
        // 1, 2, 5, 11, ... up to more than any buffer.
        (at, len) = (end, len * 2 + len % 2);
    }
    server.until("counted", |server| {
        let metrics = server.metrics(0);
        (metrics.stream_bytes_in.get(), metrics.stream_bytes_out.get()) == (200_000, 200_000)
    });
    drop(client);
    let (_, reason) = server.closed(0);
    assert_eq!(reason, CloseReason::PeerClosed);
    server.stop();
}

fn a_stream_comes_back_whole_however_it_is_cut(level: Level) {
    echoes_on(LOOPBACK, level);
    if has_ipv6() {
        echoes_on(LOOPBACK_6, level);
    }
}

fn pipelined_messages_of_many_connections_come_back_in_order(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), echo);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let mut client = tcp_client(&server);
            scope.spawn(move || {
                // As much as may wait for a slow peer. One turn may receive all of it, and answer it at once.
                let sent = pattern(1 << 20, number);
                let mut writer = client.try_clone().expect("a second handle");
                let to_write = sent.clone();
                let writing = std::thread::spawn(move || {
                    for piece in to_write.chunks(7_001) {
                        writer.write_all(piece).expect("sent");
                    }
                });
                let mut back = vec![0; sent.len()];
                client.read_exact(&mut back).expect("an echo");
                writing.join().expect("written");
                assert!(back == sent, "stream {number} changed");
            });
        }
    });
    server.stop();
}

fn two_thousand_connections_are_served_at_once(level: Level) {
    // One level at a time: each holds four thousand descriptors.
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let server = Server::start(level, &config(LOOPBACK), echo);
    let mut clients: Vec<TcpStream> = (0..2_000).map(|_| tcp_client(&server)).collect();
    for round in 0..3u32 {
        // All speak before anybody listens.
        for (number, client) in (0u32..).zip(&mut clients) {
            client
                .write_all(&pattern(300, u64::from(round * 10_000 + number)))
                .expect("sent");
        }
        for (number, client) in (0u32..).zip(&mut clients) {
            let mut back = [0; 300];
            client.read_exact(&mut back).expect("an echo");
            assert!(back[..] == pattern(300, u64::from(round * 10_000 + number)));
        }
    }
    assert_eq!(server.connections.total(), 2_000);
    assert_eq!(server.metrics(0).connections_accepted.get(), 2_000);
    drop(clients);
    server.until("all closed", |server| server.connections.total() == 0);
    server.until("all slots free", |server| {
        server.wakers.wake(ShardId(0));
        server.metrics(0).connections.get() == 0
    });
    server.stop();
}

/// A peer that listens, and what it accepts.
struct Peer {
    listener: TcpListener,
    flow: Flow,
}

impl Peer {
    fn new() -> Peer {
        let listener = TcpListener::bind((LOOPBACK, 0)).expect("a listener");
        let flow = flow_to(Transport::Tcp, listener.local_addr().expect("an address"));
        Peer { listener, flow }
    }

    fn accept(&self) -> TcpStream {
        let (stream, _) = self.listener.accept().expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream
    }
}

fn a_connection_is_opened_once_and_used_again(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), listen);
    let peer = Peer::new();
    server.order(0, vec![send(peer.flow, b"first", Some(op(1)))]);
    let mut stream = peer.accept();
    let flow = server.opened(0);
    assert_eq!(
        (flow.peer, flow.transport, flow.listener),
        (peer.flow.peer, Transport::Tcp, TCP)
    );
    assert!(flow.conn.is_some());
    // By its peer, and by its id.
    server.order(
        0,
        vec![send(peer.flow, b"second", None), send(flow, b"third", None)],
    );
    let mut got = [0; 16];
    stream.read_exact(&mut got).expect("three messages");
    assert_eq!(&got, b"firstsecondthird");
    stream.write_all(b"answer").expect("sent");
    assert_eq!(server.stream(0, 6), b"answer");
    assert_eq!(server.metrics(0).connections_opened.get(), 1);
    assert_eq!(stream.peer_addr().expect("an address").ip(), server.addr().ip());
    server.stop();
}

fn an_accepted_connection_is_found_by_its_peer(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), listen);
    let mut client = tcp_client(&server);
    let flow = server.opened(0);
    assert_eq!(flow.peer, client.local_addr().expect("an address"));
    server.order(0, vec![send(Flow { conn: None, ..flow }, b"found", None)]);
    let mut got = [0; 5];
    client.read_exact(&mut got).expect("a message");
    assert_eq!(&got, b"found");
    assert_eq!(server.metrics(0).connections_opened.get(), 0);
    server.stop();
}

fn what_is_queued_while_connecting_leaves_in_order(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), listen);
    let peer = Peer::new();
    let expected: Vec<u8> = (0..200u8).collect();
    server.order(
        0,
        expected
            .iter()
            .map(|&number| send(peer.flow, &[number], None))
            .collect(),
    );
    let mut got = vec![0; 200];
    peer.accept().read_exact(&mut got).expect("all of it");
    assert_eq!(got, expected);
    assert_eq!(server.metrics(0).connections_opened.get(), 1);
    server.stop();
}

/// An address on which nobody listens.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind((LOOPBACK, 0)).expect("a listener");
    listener.local_addr().expect("an address")
}

fn a_refused_connection_fails_every_message_and_then_closes(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), listen);
    let flow = flow_to(Transport::Tcp, nobody());
    server.order(
        0,
        vec![
            send(flow, b"one", Some(op(1))),
            send(flow, b"two", None),
            send(flow, b"three", Some(op(3))),
        ],
    );
    assert_eq!(server.send_failed(0), (op(1), CloseReason::ConnectFailed));
    assert_eq!(server.send_failed(0), (op(3), CloseReason::ConnectFailed));
    let (_, reason) = server.closed(0);
    assert_eq!(reason, CloseReason::ConnectFailed);
    assert_eq!(
        server.metrics(0).drops[DropReason::ConnectionLost as usize].get(),
        3
    );
    // Nothing stays behind that would keep the next attempt from being made.
    server.order(0, vec![send(flow, b"again", Some(op(4)))]);
    assert_eq!(server.send_failed(0), (op(4), CloseReason::ConnectFailed));
    server.stop();
}

fn what_a_closing_peer_may_not_have_read_fails(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), listen);
    let mut client = tcp_client(&server);
    client.write_all(b"hello").expect("sent");
    let flow = server.opened(0);
    assert_eq!(server.stream(0, 5), b"hello");
    // Of the first it hears something afterwards; the second may never have been read.
    server.order(0, vec![send(flow, b"one", Some(op(1)))]);
    let mut back = [0; 3];
    client.read_exact(&mut back).expect("the first");
    client.write_all(b"heard").expect("sent");
    assert_eq!(server.stream(0, 5), b"heard");
    server.order(0, vec![send(flow, b"two", Some(op(2)))]);
    client.read_exact(&mut back).expect("the second");
    drop(client);
    assert_eq!(server.unheard(0), (op(2), CloseReason::PeerClosed));
    assert_eq!(server.closed(0).1, CloseReason::PeerClosed);
    server.stop();
}

fn an_address_without_a_route_fails_cleanly(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), listen);
    // From a loopback address nothing outside can be reached; and no IPv6 peer from an IPv4 listener; and port 0 is none.
    for (number, peer) in (1u32..).zip([
        "192.0.2.1:5060",
        "[::1]:5060",
        "127.0.0.1:0",
        "255.255.255.255:5060",
    ]) {
        let peer: SocketAddr = peer.parse().expect("an address");
        server.order(
            0,
            vec![send(flow_to(Transport::Tcp, peer), b"lost", Some(op(number)))],
        );
        assert_eq!(
            server.send_failed(0),
            (op(number), CloseReason::ConnectFailed),
            "{peer}"
        );
    }
    server.until("all given up", |server| server.connections.total() == 0);
    server.stop();
}

fn an_answer_that_can_not_leave_comes_back(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), listen);
    let flow = flow_to(Transport::Tcp, nobody());
    let answer = |tried| Some(TxOp::Answer { tried });
    server.order(
        0,
        vec![
            send(flow, b"request", Some(op(1))),
            send(flow, b"one answer", answer(0)),
            send(flow, b"another", answer(3)),
        ],
    );
    for (bytes, tried) in [(&b"one answer"[..], 0), (b"another", 3)] {
        let (was_for, back, back_tried, reason) = server.answer_back(0);
        assert_eq!((was_for.peer, &back[..], back_tried), (flow.peer, bytes, tried));
        assert_eq!(reason, CloseReason::ConnectFailed);
    }
    // Nobody is there to be connected to: it comes back at once.
    let gone = Flow {
        peer: (LOOPBACK, 0).into(),
        ..flow
    };
    server.order(0, vec![send(gone, b"to nobody", answer(0))]);
    assert_eq!(server.answer_back(0).1, b"to nobody");
    // Of a datagram it is the kernel that says so.
    let nowhere = flow_to(Transport::Udp, "192.0.2.1:5060".parse().expect("an address"));
    server.order(0, vec![send(nowhere, b"a datagram", answer(1))]);
    let (was_for, back, tried, _) = server.answer_back(0);
    assert_eq!((was_for, &back[..], tried), (nowhere, &b"a datagram"[..], 1));
    server.stop();
}

fn answers_that_were_sent_do_not_come_back(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), listen);
    let mut client = tcp_client(&server);
    let flow = server.opened(0);
    // Answers don't take the places of the requests that nothing was heard after.
    let mut orders = vec![send(flow, b"?", Some(op(1)))];
    orders.extend((0..8).map(|_| send(flow, b"!", Some(TxOp::ANSWER))));
    server.order(0, orders);
    client.read_exact(&mut [0; 9]).expect("all of it");
    drop(client);
    let mut back = 0;
    let unheard = server.wait_for(0, |seen| match seen {
        Seen::AnswerNotSent { .. } => {
            back += 1;
            None
        }
        Seen::SendFailed { op, was_sent, .. } => Some((*op, *was_sent)),
        _ => None,
    });
    assert_eq!((unheard, back), ((op(1), true), 0));
    assert_eq!(server.closed(0).1, CloseReason::PeerClosed);
    server.stop();
}

fn a_connection_to_ourselves_works_like_any_other(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), listen);
    server.order(
        0,
        vec![send(flow_to(Transport::Tcp, server.addr()), b"to me", None)],
    );
    assert_eq!(server.stream(0, 5), b"to me");
    assert_eq!(server.connections.total(), 2);
    server.stop();
}

fn a_stalled_reader_costs_only_its_own_connection(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), listen);
    let stalled = tcp_client(&server);
    let flow = server.opened(0);
    let mut other = tcp_client(&server);
    let other_flow = server.opened(0);
    // Far more than the kernel's buffers and ours together.
    let message = pattern(60_000, 3);
    let mut sent = 0u32;
    let (conn, reason) = loop {
        sent += 1;
        assert!(sent < 10_000, "600 MB without an end");
        server.order(
            0,
            vec![
                send(flow, &message, Some(op(sent))),
                send(other_flow, &sent.to_be_bytes(), None),
            ],
        );
        let mut got = [0; 4];
        other.read_exact(&mut got).expect("the other connection lives");
        assert_eq!(u32::from_be_bytes(got), sent);
        // Messages that the connection ended with fail in order, and then it closes.
        if server.metrics(0).connections_closed.get() > 0 {
            let mut last = 0;
            break server.wait_for(0, |seen| match seen {
                Seen::SendFailed { op, reason, .. } => {
                    assert_eq!(*reason, CloseReason::SendQueueFull);
                    let TxOp::Request { slot, .. } = *op else {
                        panic!("no request: {op:?}");
                    };
                    assert!(slot > last, "out of order");
                    last = slot;
                    None
                }
                Seen::Closed { conn, reason } => Some((*conn, *reason)),
                _ => None,
            });
        }
    };
    assert_eq!((Some(conn), reason), (flow.conn, CloseReason::SendQueueFull));
    drop(stalled);
    server.order(0, vec![send(other_flow, b"still", None)]);
    let mut got = [0; 5];
    other.read_exact(&mut got).expect("the other connection lives");
    assert_eq!(server.metrics(0).connections_closed.get(), 1);
    server.stop();
}

fn one_turn_may_say_more_than_may_wait_to_who_reads(level: Level) {
    let cfg = config(LOOPBACK);
    let server = Server::start(level, &cfg, listen);
    let mut client = tcp_client(&server);
    let flow = server.opened(0);
    // More than the limit by less than any socket takes, so that it is no matter how fast the client is.
    let message = pattern(60_000, 3);
    let count = cfg.limits.send_queue_bytes_max / message.len() + 1;
    server.order(0, (0..count).map(|_| send(flow, &message, None)).collect());
    for _ in 0..count {
        let mut got = vec![0; message.len()];
        client.read_exact(&mut got).expect("all of it");
        assert!(got == message, "changed");
    }
    server.stop();
}

fn stalled_readers_together_have_a_limit_and_the_longest_stalled_goes_first(level: Level) {
    let mut cfg = config(LOOPBACK);
    cfg.limits.send_queue_bytes_max = 2_000_000;
    cfg.limits.send_queue_bytes_sum_max = 1_000_000;
    let server = Server::start(level, &cfg, listen);
    let clients = [0; 3].map(|_| tcp_client(&server));
    let flows = [0; 3].map(|_| server.opened(0));
    let metrics = server.metrics(0);
    // Two are given what they don't take, in turn: each stays far below what one may have.
    let message = pattern(20_000, 5);
    let (mut reader, mut sent) = (&clients[2], 0u32);
    while metrics.connections_stalled.get() == 0 {
        sent += 1;
        assert!(sent < 10_000, "400 MB without an end");
        server.order(
            0,
            vec![
                send(flows[0], &message, None),
                send(flows[1], &message, None),
                send(flows[2], &sent.to_be_bytes(), None),
            ],
        );
        let mut got = [0; 4];
        reader.read_exact(&mut got).expect("who reads has never noticed");
        assert_eq!(u32::from_be_bytes(got), sent);
    }
    let (gone, reason) = server.closed(0);
    assert_eq!(reason, CloseReason::SendStalled);
    let stays = match Some(gone) {
        first if first == flows[0].conn => flows[1],
        second if second == flows[1].conn => flows[0],
        other => panic!("{other:?} was to blame for nothing"),
    };
    let dropped = &metrics.drops[DropReason::SendQueuesFull as usize];
    assert_eq!(dropped.get(), 0);
    server.order(
        0,
        vec![Order::Close(
            stays.conn.expect("a connection"),
            CloseReason::Shutdown,
        )],
    );
    server.closed(0);

    // In one turn nobody has had a chance to take anything, so nobody is to blame: what doesn't fit is dropped.
    let burst = (0..60).map(|number| send(flows[2], &message, Some(op(number))));
    server.order(0, burst.collect());
    assert_eq!(server.send_failed(0), (op(49), CloseReason::Limit), "49 fit");
    let fitted = 49 * message.len();
    reader.read_exact(&mut vec![0; fitted]).expect("what did fit");
    server.until("sent", |server| server.metrics(0).send_queue_bytes.get() == 0);
    assert_eq!(dropped.get(), 11);
    assert_eq!(metrics.connections_stalled.get(), 1);
    server.stop();
}

fn a_reader_that_stalls_for_too_long_loses_its_connection(level: Level) {
    let mut cfg = config(LOOPBACK);
    cfg.limits.send_stalled = Duration::from_millis(200);
    cfg.limits.send_queue_bytes_max = 64 << 20;
    let server = Server::start(level, &cfg, listen);
    let stalled = tcp_client(&server);
    let flow = server.opened(0);
    let message = pattern(60_000, 3);
    // More than the kernel takes, less than may wait; all of it in one turn, for 200 ms are soon over on a busy machine.
    let mut all: Vec<_> = (0..640).map(|_| send(flow, &message, None)).collect();
    all.push(send(flow, &message, Some(op(1))));
    server.order(0, all);
    assert_eq!(server.send_failed(0), (op(1), CloseReason::SendStalled));
    assert_eq!(
        server.closed(0),
        (flow.conn.expect("a connection"), CloseReason::SendStalled)
    );
    assert_eq!(server.metrics(0).connections_stalled.get(), 1);
    drop(stalled);
    server.until("nothing waits", |server| {
        server.metrics(0).send_queue_bytes.get() == 0
    });
    server.stop();
}

fn wait_of(server: &Server, what: impl Fn(Duration) -> bool) {
    server.wait_for(0, |seen| match seen {
        Seen::StreamsWait(wait) if what(*wait) => Some(()),
        _ => None,
    });
}

fn a_shard_that_many_connections_keep_busy_knows_how_long_they_wait(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), slow);
    let clients: Vec<TcpStream> = (0..200).map(|_| tcp_client(&server)).collect();
    // Each says something all the time: 200 messages take 200 ms, and by then as many are there again.
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for mut client in &clients {
                    client.write_all(&[b'x'; 300]).expect("sent");
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        wait_of(&server, |wait| wait >= Duration::from_millis(20));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    // What is left over ends, and what comes alone has waited for nothing.
    server.until("all taken up", |server| {
        let sent = server.metrics(0).stream_bytes_in.get();
        std::thread::sleep(Duration::from_millis(50));
        sent == server.metrics(0).stream_bytes_in.get()
    });
    (&clients[0]).write_all(b"alone").expect("sent");
    wait_of(&server, |wait| wait.is_zero());
    server.stop();
}

fn a_shard_that_one_connection_keeps_busy_knows_how_long_it_waits(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), slow);
    let client = tcp_client(&server);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            // Until the server ends the connection.
            let bytes = pattern(60_000, 9);
            while (&client).write_all(&bytes).is_ok() {}
        });
        // As much as the kernel's smallest window holds takes this shard longer.
        wait_of(&server, |wait| wait >= Duration::from_millis(5));
        client.shutdown(Shutdown::Both).expect("closed");
        sender.join().expect("sent");
    });
    server.stop();
}

/// As slow as [`slow`], and sends back what came.
fn slow_echo(event: &Event<'_>, out: &mut Effects) {
    slow(event, out);
    echo(event, out);
}

fn what_a_connection_had_waiting_when_it_was_cut_off_is_forgotten(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), slow_echo);
    let client = tcp_client(&server);
    socket2::SockRef::from(&client)
        .set_recv_buffer_size(4_096)
        .expect("an option");
    // It says all it can and reads nothing, until the server has enough of it.
    let bytes = pattern(60_000, 9);
    while (&client).write_all(&bytes).is_ok() {}
    assert_eq!(server.closed(0).1, CloseReason::SendQueueFull);
    // Nobody says anything any more, which the next turn knows, whatever it is for.
    server.wakers.wake(ShardId(0));
    wait_of(&server, |wait| wait.is_zero());
    server.stop();
}

/// Answers only in the turn after: everything that came is sent back behind a mark.
fn answer(event: &Event<'_>, out: &mut Effects) {
    if let Event::Stream { flow, bytes } = *event {
        for part in [&b"answer to "[..], bytes] {
            let buf = out.pool.put(part).expect("room in the pool");
            out.send(flow, buf, None);
        }
    }
}

fn a_peer_that_closes_its_side_still_gets_its_answer(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), answer);
    for _ in 0..20 {
        let mut client = tcp_client(&server);
        client.write_all(b"question").expect("sent");
        client.shutdown(Shutdown::Write).expect("closed");
        let mut got = Vec::new();
        client.read_to_end(&mut got).expect("an answer and the end");
        assert_eq!(got, b"answer to question");
        let (_, reason) = server.closed(0);
        assert_eq!(reason, CloseReason::PeerClosed);
    }
    server.stop();
}

fn a_reset_closes_the_connection_and_fails_what_was_queued(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), listen);
    let client = tcp_client(&server);
    let flow = server.opened(0);
    // More than the kernel takes, so that some is still with us.
    let mut messages = 0;
    let message = pattern(60_000, 5);
    while server.metrics(0).stream_bytes_out.get() == messages * 60_000 {
        messages += 1;
        server.order(0, vec![send(flow, &message, Some(op(messages as u32)))]);
        let taken = |server: &Server| server.metrics(0).stream_bytes_out.get();
        let before = taken(&server);
        server.wait_for(0, |seen| (*seen == Seen::Nothing).then_some(()));
        // A turn or two may pass before the send completes.
        for _ in 0..20 {
            if taken(&server) > before || taken(&server) == messages * 60_000 {
                break;
            }
            server.wakers.wake(ShardId(0));
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(messages < 1_000);
    }
    let linger = socket2::SockRef::from(&client);
    linger
        .set_linger(Some(std::time::Duration::ZERO))
        .expect("an option");
    drop(client);
    let (last, reason) = server.send_failed(0);
    assert_eq!(reason, CloseReason::Reset);
    assert!((1..=messages).any(|message| op(message as u32) == last));
    assert_eq!(
        server.closed(0),
        (flow.conn.expect("a connection"), CloseReason::Reset)
    );
    server.stop();
}

fn closing_sends_what_is_queued_first(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), listen);
    let mut client = tcp_client(&server);
    let flow = server.opened(0);
    let conn = flow.conn.expect("a connection");
    let message = pattern(500_000, 6);
    let pieces = message.chunks(60_000).map(|piece| send(flow, piece, None));
    server.order(
        0,
        pieces
            .chain([
                Order::Close(conn, CloseReason::Framing),
                // Too late for this connection; its peer doesn't listen.
                send(flow, b"late", Some(op(9))),
            ])
            .collect(),
    );
    let mut got = Vec::new();
    client.read_to_end(&mut got).expect("all, and then the end");
    assert!(got == message);
    drop(client);
    let mut failed = false;
    let mut closed = false;
    while !(failed && closed) {
        server.wait_for(0, |seen| match seen {
            Seen::SendFailed { op: which, .. } => {
                assert_eq!(*which, op(9));
                failed = true;
                Some(())
            }
            Seen::Closed { conn: which, reason } if *which == conn => {
                assert_eq!(*reason, CloseReason::Framing);
                closed = true;
                Some(())
            }
            _ => None,
        });
    }
    server.stop();
}

fn nothing_is_heard_of_a_connection_after_it_was_closed(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), listen);
    let mut client = tcp_client(&server);
    let conn = server.opened(0).conn.expect("a connection");
    client.write_all(b"before").expect("sent");
    assert_eq!(server.stream(0, 6), b"before");
    server.order(0, vec![Order::Close(conn, CloseReason::Framing)]);
    // Our side is closed; the peer's is not yet.
    assert_eq!(client.read(&mut [0; 1]).expect("the end"), 0);
    client.write_all(b"after").expect("sent");
    client.shutdown(Shutdown::Write).expect("closed");
    server.wait_for(0, |seen| match seen {
        Seen::Stream { .. } => panic!("{seen:?}"),
        Seen::Closed { conn: which, reason } => {
            assert_eq!((*which, *reason), (conn, CloseReason::Framing));
            Some(())
        }
        _ => None,
    });
    // Its id means nothing any more.
    server.order(0, vec![Order::Close(conn, CloseReason::Framing)]);
    let mut again = tcp_client(&server);
    let flow = server.opened(0);
    assert_ne!(flow.conn, Some(conn));
    again.write_all(b"new").expect("sent");
    assert_eq!(server.stream(0, 3), b"new");
    server.stop();
}

fn a_message_for_a_connection_that_is_gone_goes_to_its_peer(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), listen);
    let peer = Peer::new();
    server.order(0, vec![send(peer.flow, b"one", None)]);
    let mut first = peer.accept();
    let flow = server.opened(0);
    first.read_exact(&mut [0; 3]).expect("a message");
    drop(first);
    assert_eq!(server.closed(0).1, CloseReason::PeerClosed);
    server.order(0, vec![send(flow, b"two", None)]);
    let mut second = peer.accept();
    let mut got = [0; 3];
    second.read_exact(&mut got).expect("a message");
    assert_eq!(&got, b"two");
    assert_ne!(server.opened(0).conn, flow.conn);
    server.stop();
}

fn dropping_a_busy_reactor_closes_everything(level: Level) {
    let server = Server::start(level, &config(LOOPBACK), echo);
    let mut clients: Vec<TcpStream> = (0..100).map(|_| tcp_client(&server)).collect();
    for client in &mut clients {
        client.write_all(&pattern(10_000, 1)).expect("sent");
    }
    server.stop();
    for client in &mut clients {
        // What was echoed may still come; then the end, or a reset for what was never read.
        let mut got = Vec::new();
        match client.read_to_end(&mut got) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
        assert!(pattern(10_000, 1).starts_with(&got));
    }
}
