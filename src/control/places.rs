//! Who has a place at a listener of the admin server. There are so many; when all are taken and one more comes, the connection goes
//! that keeps us waiting: with half a head, between two requests, in the middle of a body, or with an answer that it does not take.
//! So who wants an answer and reads it gets one, whatever others hold open.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::lock;

/// Connections of the admin server, of all its listeners.
#[derive(Default, Debug)]
pub struct Counts {
    now: AtomicU64,
    given_up: AtomicU64,
}

impl Counts {
    /// Those that have a place.
    pub fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// Those that lost theirs to another since the start.
    pub fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
    }
}

/// Whom a connection comes from, for a fair share: whoever has one IPv6 address has the 2^64 around it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    Ip(IpAddr),
    /// The other end of a unix socket: always the same user.
    Local,
}

impl Source {
    pub fn of(ip: IpAddr) -> Source {
        Source::Ip(match ip.to_canonical() {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                IpAddr::from([a, b, c, d, 0, 0, 0, 0])
            }
        })
    }
}

/// What a connection may keep us waiting for.
#[derive(Clone, Copy)]
enum Wait {
    /// The rest of a request's head; also the beginning of the next.
    Head,
    /// The rest of a request's body.
    Body,
    /// That it takes what it is answered.
    Taking,
    /// Nothing: it is told what happens, as long as it wants. It goes last, when nobody else keeps us waiting.
    Watching,
}

/// Stands in the extensions of an answer that goes on for as long as who asked wants.
#[derive(Clone, Copy)]
pub struct GoesOn;

/// The places of one listener.
pub struct Places {
    max: usize,
    taken: Mutex<Vec<Arc<Place>>>,
    shared: Arc<Shared>,
    counts: Arc<Counts>,
}

/// What all places of one listener have.
#[derive(Default)]
struct Shared {
    /// Somebody has left, or keeps us waiting, who did not before.
    news: Notify,
    /// How often somebody began to keep us waiting: who began first has the least.
    begun: AtomicU64,
}

impl Places {
    /// `max`: how many, 1 or more.
    pub fn new(max: usize, counts: Arc<Counts>) -> Arc<Places> {
        Arc::new(Places {
            max,
            taken: Mutex::default(),
            shared: Arc::default(),
            counts,
        })
    }

    /// A place for a connection from `source`. Where all are taken by connections that wait for us, it comes when one of them is done.
    pub async fn take(self: &Arc<Self>, source: Source) -> Taken {
        loop {
            if let Some(taken) = self.try_take(source) {
                return taken;
            }
            self.shared.news.notified().await;
        }
    }

    fn try_take(self: &Arc<Self>, source: Source) -> Option<Taken> {
        let mut taken = lock(&self.taken);
        if taken.len() >= self.max {
            let index = loser(&taken)?;
            taken.swap_remove(index).is_lost.notify_one();
            Counts::add(&self.counts.given_up);
        } else {
            Counts::add(&self.counts.now);
        }
        let place = Arc::new(Place {
            source,
            waits: Mutex::default(),
            is_lost: Notify::new(),
            shared: Arc::clone(&self.shared),
        });
        place.begin(Wait::Head);
        taken.push(Arc::clone(&place));
        Some(Taken {
            places: Arc::clone(self),
            place,
        })
    }
}

impl Counts {
    fn add(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Which of them is to go: of those that keep us waiting one of whoever has most places, and of these the one that began first.
/// `None`: nobody keeps us waiting.
fn loser(taken: &[Arc<Place>]) -> Option<usize> {
    let share = |place: &Place| taken.iter().filter(|other| other.source == place.source).count();
    let waiting = taken.iter().enumerate();
    waiting
        .filter_map(|(index, place)| Some((index, share(place), place.since()?)))
        .min_by_key(|&(_, share, (watches, since))| (watches, std::cmp::Reverse(share), since))
        .map(|(index, ..)| index)
}

/// A place as long as it is held.
pub struct Taken {
    places: Arc<Places>,
    place: Arc<Place>,
}

impl Taken {
    pub fn place(&self) -> Arc<Place> {
        Arc::clone(&self.place)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut taken = lock(&self.places.taken);
        // Who lost it to another is not there any more.
        if let Some(index) = taken.iter().position(|place| Arc::ptr_eq(place, &self.place)) {
            taken.swap_remove(index);
            self.places.counts.now.fetch_sub(1, Ordering::Relaxed);
        }
        drop(taken);
        self.places.shared.news.notify_one();
    }
}

/// One connection's place.
pub struct Place {
    source: Source,
    /// Since when it keeps us waiting, by [`Wait`]: as [`Shared::begun`] counts.
    waits: Mutex<[Option<u64>; 4]>,
    is_lost: Notify,
    shared: Arc<Shared>,
}

impl Place {
    /// Until another connection gets the place.
    pub async fn lost(&self) {
        self.is_lost.notified().await;
    }

    /// A request is there: from now on it waits for us, until what this gives is dropped.
    pub fn asked(self: &Arc<Self>) -> Asked {
        self.end(Wait::Head);
        Asked(Arc::clone(self))
    }

    /// Since when it keeps us waiting, and whether it only watches.
    fn since(&self) -> Option<(bool, u64)> {
        let waits = lock(&self.waits);
        let [of_us @ .., watching] = &*waits;
        let since = of_us.iter().flatten().min().copied();
        since
            .map(|since| (false, since))
            .or(watching.map(|since| (true, since)))
    }

    fn begin(&self, wait: Wait) {
        let mut waits = lock(&self.waits);
        let since = &mut waits[wait as usize];
        if since.is_none() {
            *since = Some(self.shared.begun.fetch_add(1, Ordering::Relaxed));
            self.shared.news.notify_one();
        }
    }

    fn end(&self, wait: Wait) {
        lock(&self.waits)[wait as usize] = None;
    }

    /// Notes whether it keeps us waiting.
    fn noted<T>(&self, wait: Wait, poll: Poll<T>) -> Poll<T> {
        match poll {
            Poll::Pending => self.begin(wait),
            Poll::Ready(_) => self.end(wait),
        }
        poll
    }
}

/// While a request is answered.
pub struct Asked(Arc<Place>);

impl Asked {
    /// What it is answered goes on.
    pub fn goes_on(&self) {
        self.0.begin(Wait::Watching);
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.end(Wait::Watching);
        self.0.end(Wait::Body);
        self.0.begin(Wait::Head);
    }
}

/// A connection whose place knows when it does not take what it is answered.
pub struct Watched<S> {
    pub stream: S,
    pub place: Arc<Place>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.place.noted(Wait::Taking, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.place.noted(Wait::Taking, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A request's body, whose rest may be long in coming.
pub struct Question {
    pub body: Incoming,
    pub place: Arc<Place>,
}

impl hyper::body::Body for Question {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let poll = Pin::new(&mut self.body).poll_frame(cx);
        self.place.noted(Wait::Body, poll)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body; with its end the request is answered.
pub struct Told {
    pub body: Body,
    pub asked: Asked,
}

impl hyper::body::Body for Told {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn places(max: usize) -> (Arc<Places>, Arc<Counts>) {
        let counts = Arc::<Counts>::default();
        (Places::new(max, Arc::clone(&counts)), counts)
    }

    fn from(last: u8) -> Source {
        Source::of(Ipv4Addr::new(127, 0, 0, last).into())
    }

    /// Whether it has lost its place.
    fn is_lost(taken: &Taken) -> bool {
        let mut waiting = std::pin::pin!(taken.place.lost());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        waiting.as_mut().poll(&mut cx).is_ready()
    }

    #[test]
    fn who_keeps_us_waiting_longest_goes_and_who_is_being_answered_stays() {
        let (places, counts) = places(3);
        let take = || places.try_take(from(1));
        let asking = || {
            let taken = take()?;
            let asked = taken.place().asked();
            Some((taken, asked))
        };
        let (first, asked_first) = asking().unwrap();
        let (second, third) = (take().unwrap(), take().unwrap());
        let fourth = asking().expect("in place of the second");
        assert!(!is_lost(&first) && is_lost(&second) && !is_lost(&third));
        drop(second);
        assert_eq!((counts.now(), counts.given_up()), (3, 1));
        let asked_third = third.place().asked();
        assert!(take().is_none(), "all are being answered");
        fourth.0.place.begin(Wait::Taking);
        let _fifth = asking().expect("one does not take its answer");
        assert!(is_lost(&fourth.0));
        assert!(take().is_none(), "all are being answered");
        third.place.begin(Wait::Body);
        let _sixth = asking().expect("a body does not come");
        assert!(is_lost(&third));
        assert!(take().is_none(), "all are being answered");
        drop(asked_first);
        let _seventh = take().expect("one has been answered, and asks no more");
        assert!(is_lost(&first));
        drop((third, asked_third));
        assert_eq!((counts.now(), counts.given_up()), (3, 4));
    }

    #[test]
    fn who_watches_goes_when_nobody_else_keeps_us_waiting() {
        let (places, _) = places(3);
        let asking = |last| {
            let taken = places.try_take(from(last))?;
            let asked = taken.place().asked();
            Some((taken, asked))
        };
        let watchers = [asking(1).unwrap(), asking(1).unwrap()];
        for (_, asked) in &watchers {
            asked.goes_on();
        }
        let idle = places.try_take(from(2)).unwrap();
        let _first = asking(2).expect("in place of the idle one");
        assert!(is_lost(&idle) && !is_lost(&watchers[0].0));
        let _second = asking(2).expect("in place of who has watched longest");
        assert!(is_lost(&watchers[0].0) && !is_lost(&watchers[1].0));
    }

    #[test]
    fn whoever_has_most_places_gives_one_up_though_another_waits_longer() {
        let (places, _) = places(3);
        let patient = places.try_take(from(1)).unwrap();
        let first = places.try_take(from(2)).unwrap();
        let second = places.try_take(from(2)).unwrap();
        let _other = places.try_take(from(3)).unwrap();
        assert!(!is_lost(&patient) && is_lost(&first) && !is_lost(&second));
    }

    #[test]
    fn one_network_of_ipv6_is_one_source() {
        let of = |ip: &str| Source::of(ip.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1:2:3"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:127.0.0.2"), from(2));
        assert_ne!(from(1), from(2));
    }

    #[tokio::test]
    async fn one_that_comes_when_nobody_can_go_waits_until_somebody_has_left() {
        let (places, counts) = places(1);
        let first = places.take(from(1)).await;
        let asked = first.place().asked();
        let leave = async {
            tokio::task::yield_now().await;
            drop((asked, first));
        };
        let (_second, ()) = tokio::join!(places.take(from(1)), leave);
        assert_eq!((counts.now(), counts.given_up()), (1, 0));
    }
}
