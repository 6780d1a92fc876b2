//! Many datagrams in one call: the arrays that `recvmmsg` and `sendmmsg` want, set up once.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use super::addr::{RAW_ADDR_LEN, RawAddr};
use super::memory::Pages;

/// Datagrams in one call.
pub(super) const BATCH: usize = 64;
/// Bytes for each: more than a datagram can hold (65,507 with IPv4), so that none is cut. Virtual memory, touched as needed.
const DATAGRAM_BYTES: usize = 65_536;

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
    memory: Pages,
}

/// One received datagram.
pub(super) struct Received<'a> {
    pub peer: SocketAddr,
    pub bytes: &'a [u8],
}

impl ReceiveBatch {
    pub(super) fn new() -> io::Result<ReceiveBatch> {
        let memory = Pages::new(BATCH * DATAGRAM_BYTES)?;
        let mut headers = Headers::new();
        for (index, vector) in headers.vectors.iter_mut().enumerate() {
            vector.iov_base = memory.as_ptr().wrapping_add(index * DATAGRAM_BYTES).cast();
            vector.iov_len = DATAGRAM_BYTES;
        }
        for header in &mut headers.headers {
            header.msg_hdr.msg_namelen = RAW_ADDR_LEN;
        }
        Ok(ReceiveBatch { headers, memory })
    }

    /// Takes what is there, up to [`BATCH`] datagrams, without waiting.
    pub(super) fn receive(&mut self, fd: RawFd) -> io::Result<usize> {
        // SAFETY: the headers point to names, vectors and buffers that live as long as this value, each with its true size, and
        // nothing borrows from them here.
        let count = unsafe {
            libc::recvmmsg(
                fd,
                self.headers.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        // The kernel has put each address's length in place of the room.
        for header in &mut self.headers.headers[..count] {
            header.msg_hdr.msg_namelen = RAW_ADDR_LEN;
        }
        Ok(count)
    }

    /// Datagram `index` of the last call. `None` if it was cut or has no address, neither of which UDP over IP does.
    pub(super) fn datagram(&self, index: usize) -> Option<Received<'_>> {
        let header = self.headers.headers.get(index)?;
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        let peer = self.headers.names.get(index)?.to_std()?;
        let len = (header.msg_len as usize).min(DATAGRAM_BYTES);
        // SAFETY: the kernel writes to the buffers only during `receive`, which needs this value mutably.
        let bytes = unsafe { self.memory.slice(index * DATAGRAM_BYTES, len) };
        Some(Received { peer, bytes })
    }
}

/// Sends datagrams.
pub(super) struct SendBatch {
    headers: Headers,
}

impl SendBatch {
    pub(super) fn new() -> SendBatch {
        SendBatch {
            headers: Headers::new(),
        }
    }

    /// Sends up to [`BATCH`] datagrams in order without waiting. Gives how many left; an error is about the first.
    pub(super) fn send<'a>(
        &mut self,
        fd: RawFd,
        datagrams: impl Iterator<Item = (SocketAddr, &'a [u8])>,
    ) -> io::Result<usize> {
        let mut count = 0;
        for (peer, bytes) in datagrams.take(BATCH) {
            let (name, len) = RawAddr::from_std(&peer);
            self.headers.names[count] = name;
            self.headers.headers[count].msg_hdr.msg_namelen = len;
            self.headers.vectors[count] = libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            };
            count += 1;
        }
        // SAFETY: the first `count` headers point to a name and a vector each that live as long as this value; the vectors point to
        // bytes that are borrowed for 'a, longer than this call, and are only read.
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
