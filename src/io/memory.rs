//! Pages straight from the kernel: large areas that cost nothing until they are touched.

use std::io;
use std::ptr::NonNull;

/// A zeroed, page-aligned, private mapping. Unmapped on drop.
pub(super) struct Pages {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone, like a Box<[u8]>.
unsafe impl Send for Pages {}

impl Pages {
    /// `len` bytes, rounded up by the kernel to whole pages.
    pub(super) fn new(len: usize) -> io::Result<Pages> {
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Pages { start, len })
    }

    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The bytes from `offset`.
    ///
    /// # Safety
    /// Nobody, the kernel included, may write to this range while the slice lives.
    pub(super) unsafe fn slice(&self, offset: usize, len: usize) -> &[u8] {
        assert!(offset <= self.len && len <= self.len - offset);
        // SAFETY: the range is inside the mapping (asserted), initialised (the kernel zeroes it), and not written to (the caller).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(offset), len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: start and length are those of our own mapping, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
