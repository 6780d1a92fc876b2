//! Many datagrams in one call: the arrays that `recvmmsg` and `sendmmsg` want, set up once.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use super::addr::{RAW_ADDR_LEN, RawAddr};
use super::memory::Pages;
use super::udp_runs::{PADDING_MAX, PLAN_MAX, Shipment};

/// Datagrams in one call.
pub(super) const BATCH: usize = 64;
/// Bytes for each: more than a datagram can hold (65,507 with IPv4), so that none is cut. Virtual memory, touched as needed.
const DATAGRAM_BYTES: usize = 65_536;

/// Room for what the kernel says besides the bytes of a datagram: the time stamp takes 32 bytes of it, the length of those in a
/// run 24, an error up to 64.
const CONTROL_BYTES: usize = 128;

/// The control data of one datagram, aligned as its headers want to be.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// The arrays of one direction. They point into each other, so they live behind boxes that never move.
struct Headers {
    names: Box<[RawAddr]>,
    vectors: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

impl Headers {
    fn new() -> Headers {
        let empty = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        let mut names = vec![RawAddr::unset(); BATCH].into_boxed_slice();
        let mut vectors = vec![empty; BATCH].into_boxed_slice();
        let (name, vector) = (names.as_mut_ptr(), vectors.as_mut_ptr());
        let headers = (0..BATCH)
            .map(|index| {
                // SAFETY: integers and pointers, for which zero is a value (some C libraries have private padding here).
                let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
                header.msg_hdr.msg_name = name.wrapping_add(index).cast();
                header.msg_hdr.msg_iov = vector.wrapping_add(index);
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        Headers {
            names,
            vectors,
            headers,
        }
    }
}

/// Receives datagrams. One serves all listeners of a shard, since what it holds is used up before the next call.
pub(super) struct ReceiveBatch {
    headers: Headers,
    controls: Box<[Control]>,
    /// Headers that the last call wrote to.
    used: usize,
    memory: Pages,
}

/// One received datagram, or several of one peer that came together; or an error about one that was sent.
pub(super) struct Received<'a> {
    /// Where it came from; of an error, where what it is about was sent.
    pub peer: SocketAddr,
    bytes: &'a [u8],
    /// The length of each but the last, where there are several (UDP_GRO).
    each: Option<usize>,
    /// The date at which it reached the machine, nanoseconds since 1970, if the kernel was asked to say (SO_TIMESTAMPNS).
    pub stamp: Option<u64>,
    /// What an error says.
    pub error: Option<libc::sock_extended_err>,
}

impl<'a> Received<'a> {
    /// The bytes as they came. Of an error: as much as it quotes of what was sent.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The datagrams, in the order in which they were sent.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> {
        let (bytes, each) = (self.bytes, self.each);
        // An empty datagram is one too.
        let alone = each.is_none().then_some(bytes);
        let run = each.map(|each| bytes.chunks(each));
        alone.into_iter().chain(run.into_iter().flatten())
    }
}

impl ReceiveBatch {
    pub(super) fn new() -> io::Result<ReceiveBatch> {
        let memory = Pages::new(BATCH * DATAGRAM_BYTES)?;
        let mut headers = Headers::new();
        for (index, vector) in headers.vectors.iter_mut().enumerate() {
            vector.iov_base = memory.as_ptr().wrapping_add(index * DATAGRAM_BYTES).cast();
            vector.iov_len = DATAGRAM_BYTES;
        }
        let mut controls = vec![Control([0; CONTROL_BYTES]); BATCH].into_boxed_slice();
        let control = controls.as_mut_ptr();
        for (index, header) in headers.headers.iter_mut().enumerate() {
            header.msg_hdr.msg_namelen = RAW_ADDR_LEN;
            header.msg_hdr.msg_control = control.wrapping_add(index).cast();
            header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
        }
        Ok(ReceiveBatch {
            headers,
            controls,
            used: 0,
            memory,
        })
    }

    /// Takes what is there, up to `asked` datagrams or runs of them, without waiting.
    pub(super) fn receive(&mut self, fd: RawFd, asked: usize) -> io::Result<usize> {
        self.receive_from(fd, asked, 0)
    }

    /// Takes up to a batch of the errors that came back for datagrams (IP_RECVERR), without waiting.
    pub(super) fn receive_errors(&mut self, fd: RawFd) -> io::Result<usize> {
        self.receive_from(fd, BATCH, libc::MSG_ERRQUEUE)
    }

    fn receive_from(&mut self, fd: RawFd, asked: usize, queue: libc::c_int) -> io::Result<usize> {
        // What the last call left is the length of what it said, not the room for it.
        for header in &mut self.headers.headers[..self.used] {
            header.msg_hdr.msg_namelen = RAW_ADDR_LEN;
            header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
        }
        self.used = 0;
        // SAFETY: the headers point to names, vectors, buffers and control data that live as long as this value, each with its true
        // size, and nothing borrows from them here.
        let count = unsafe {
            libc::recvmmsg(
                fd,
                self.headers.headers.as_mut_ptr(),
                asked.min(BATCH) as libc::c_uint,
                libc::MSG_DONTWAIT | queue,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        self.used = count;
        Ok(count)
    }

    /// What the last call brought at `index`. `None` if it was cut or has no address, neither of which UDP over IP does.
    pub(super) fn received(&self, index: usize) -> Option<Received<'_>> {
        let header = self.headers.headers.get(index)?;
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        let peer = self.headers.names.get(index)?.to_std()?;
        let len = (header.msg_len as usize).min(DATAGRAM_BYTES);
        // SAFETY: the kernel writes to the buffers only during `receive`, which needs this value mutably.
        let bytes = unsafe { self.memory.slice(index * DATAGRAM_BYTES, len) };
        let mut received = Received {
            peer,
            bytes,
            each: None,
            stamp: None,
            error: None,
        };
        self.read_control(index, &mut received);
        Some(received)
    }

    /// Reads the control data of what came at `index`: when it came, and how it is to be cut.
    #[allow(
        clippy::unnecessary_cast,
        reason = "other C libraries have other integers here"
    )]
    fn read_control(&self, index: usize, received: &mut Received<'_>) -> Option<()> {
        const HEADER_BYTES: usize = size_of::<libc::cmsghdr>();
        let len = self.headers.headers.get(index)?.msg_hdr.msg_controllen as usize;
        let mut rest = self.controls.get(index)?.0.get(..len)?;
        while rest.len() >= HEADER_BYTES {
            // SAFETY: as many bytes are there as are read, and integers take any value.
            let header = unsafe { rest.as_ptr().cast::<libc::cmsghdr>().read_unaligned() };
            let end = (header.cmsg_len as usize).max(HEADER_BYTES);
            let data = rest.get(HEADER_BYTES..end)?;
            match (header.cmsg_level, header.cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) if data.len() >= size_of::<libc::timespec>() => {
                    // SAFETY: the same.
                    let spec = unsafe { data.as_ptr().cast::<libc::timespec>().read_unaligned() };
                    let seconds = u64::try_from(spec.tv_sec).ok()?;
                    received.stamp = Some(seconds * 1_000_000_000 + u64::try_from(spec.tv_nsec).ok()?);
                }
                (libc::SOL_UDP, libc::UDP_GRO) if data.len() >= size_of::<libc::c_int>() => {
                    // SAFETY: the same.
                    let each = unsafe { data.as_ptr().cast::<libc::c_int>().read_unaligned() };
                    received.each = usize::try_from(each).ok().filter(|each| *each > 0);
                }
                (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR)
                    if data.len() >= size_of::<libc::sock_extended_err>() =>
                {
                    // SAFETY: the same.
                    let error = unsafe { data.as_ptr().cast::<libc::sock_extended_err>().read_unaligned() };
                    received.error = Some(error);
                }
                _ => {}
            }
            rest = rest.get(end.next_multiple_of(size_of::<usize>())..)?;
        }
        Some(())
    }
}

/// White space to pad with.
static SPACES: [u8; PADDING_MAX] = [b' '; PADDING_MAX];
/// Pieces of a datagram at most: what is before the padding, the padding, what is behind it.
const PIECES: usize = 3;

/// A datagram to send.
#[derive(Clone, Copy)]
pub(super) struct ToSend<'a> {
    pub bytes: &'a [u8],
    /// Where white space may be put in.
    pub padding_at: Option<usize>,
}

/// Sends datagrams.
pub(super) struct SendBatch {
    headers: Headers,
    /// The pieces of all datagrams of a call.
    pieces: Box<[libc::iovec]>,
    controls: Box<[SegmentControl]>,
}

/// A control message UDP_SEGMENT.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct SegmentControl([u8; SEGMENT_CONTROL_BYTES]);

// SAFETY: it computes a length.
const SEGMENT_CONTROL_BYTES: usize = unsafe { libc::CMSG_SPACE(size_of::<u16>() as u32) as usize };

impl SegmentControl {
    const fn new() -> SegmentControl {
        SegmentControl([0; SEGMENT_CONTROL_BYTES])
    }

    fn set(&mut self, segment_bytes: u16) {
        // SAFETY: the header and the value behind it lie within the array, which has room for both and is aligned for them; they
        // are integers, for which any bytes are a value.
        unsafe {
            let header = self.0.as_mut_ptr().cast::<libc::cmsghdr>();
            (*header).cmsg_level = libc::SOL_UDP;
            (*header).cmsg_type = libc::UDP_SEGMENT;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as _;
            libc::CMSG_DATA(header)
                .cast::<u16>()
                .write_unaligned(segment_bytes);
        }
    }
}

impl SendBatch {
    pub(super) fn new() -> SendBatch {
        let empty = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        SendBatch {
            headers: Headers::new(),
            pieces: vec![empty; PIECES * PLAN_MAX].into_boxed_slice(),
            controls: vec![SegmentControl::new(); BATCH].into_boxed_slice(),
        }
    }

    /// Sends up to [`BATCH`] shipments of at most [`PLAN_MAX`] datagrams in order, without waiting. Gives how many left; an error is
    /// about the first. `datagrams` gives those of a shipment with their peer.
    ///
    /// A run of which a datagram can't be given its length fails as the kernel would refuse it (EINVAL): one that is longer than
    /// the others would be split in the wrong place without a word.
    pub(super) fn send<'a, D>(
        &mut self,
        fd: RawFd,
        shipments: &[Shipment],
        datagrams: impl Fn(Shipment) -> (SocketAddr, D),
    ) -> io::Result<usize>
    where
        D: Iterator<Item = ToSend<'a>>,
    {
        let (mut count, mut used) = (0, 0);
        for &shipment in shipments.iter().take(BATCH) {
            let (peer, datagrams) = datagrams(shipment);
            let is_run = shipment.count > 1;
            let first = used;
            let mut is_whole = true;
            for datagram in datagrams {
                match gather(
                    &datagram,
                    is_run.then_some(shipment.len),
                    &mut self.pieces[used..],
                ) {
                    Some(pieces) => used += pieces,
                    None => is_whole = false,
                }
            }
            if !is_whole {
                if count == 0 {
                    return Err(io::Error::from_raw_os_error(libc::EINVAL));
                }
                // What is before it leaves, and the next call tells.
                break;
            }
            let (name, len) = RawAddr::from_std(&peer);
            self.headers.names[count] = name;
            let header = &mut self.headers.headers[count].msg_hdr;
            header.msg_namelen = len;
            header.msg_iov = self.pieces[first..].as_mut_ptr();
            header.msg_iovlen = (used - first) as _;
            if is_run {
                let control = &mut self.controls[count];
                control.set(shipment.len);
                header.msg_control = control.0.as_mut_ptr().cast();
                header.msg_controllen = SEGMENT_CONTROL_BYTES as _;
            } else {
                header.msg_control = std::ptr::null_mut();
                header.msg_controllen = 0;
            }
            count += 1;
        }
        // SAFETY: the first `count` headers point to a name, to pieces and to a control message that live as long as this value;
        // the pieces point to static spaces and to bytes that are borrowed for 'a, longer than this call, and are only read.
        let sent = unsafe {
            libc::sendmmsg(
                fd,
                self.headers.headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Points `pieces` to a datagram, padded to `len` if that is given. Gives how many there are; `None`: it can't be of that
/// length, or there is no room.
fn gather(datagram: &ToSend<'_>, len: Option<u16>, pieces: &mut [libc::iovec]) -> Option<usize> {
    let piece = |bytes: &[u8]| libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let bytes = datagram.bytes;
    let missing = match len {
        Some(len) => usize::from(len).checked_sub(bytes.len())?,
        None => 0,
    };
    if missing == 0 {
        *pieces.first_mut()? = piece(bytes);
        return Some(1);
    }
    let (before, behind) = bytes.split_at_checked(datagram.padding_at?)?;
    let pieces = pieces.get_mut(..PIECES)?;
    pieces[0] = piece(before);
    pieces[1] = piece(SPACES.get(..missing)?);
    pieces[2] = piece(behind);
    Some(PIECES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_of_a_run_has_its_length_or_is_refused() {
        let mut pieces = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; PIECES];
        let mut gathered = |padding_at, len| {
            let datagram = ToSend {
                bytes: b"Via: SIP/2.0/UDP",
                padding_at,
            };
            let count = gather(&datagram, len, &mut pieces)?;
            Some(
                pieces[..count]
                    .iter()
                    .map(|piece| piece.iov_len)
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(gathered(Some(5), None), Some(vec![16]));
        assert_eq!(gathered(None, Some(16)), Some(vec![16]));
        assert_eq!(gathered(Some(5), Some(20)), Some(vec![5, 4, 11]));
        assert_eq!(gathered(Some(16), Some(17)), Some(vec![16, 1, 0]));
        assert_eq!(
            gathered(Some(5), Some(16 + PADDING_MAX as u16)),
            Some(vec![5, PADDING_MAX, 11])
        );
        for (padding_at, len) in [
            (None, 20),
            (Some(5), 15),
            (Some(17), 20),
            (Some(5), 17 + PADDING_MAX as u16),
        ] {
            assert_eq!(gathered(padding_at, Some(len)), None, "{padding_at:?} {len}");
        }
    }
}
