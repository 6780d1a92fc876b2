//! Which features of the kernel there are, found by trying each, and what stands in for those that are missing.
//! Distributions backport, containers forbid: a version number alone says neither.

use std::fmt;
use std::io;

use super::probe_kernel;
use crate::config::KernelLevel;

/// The oldest kernel that is supported.
pub const OLDEST: KernelLevel = KernelLevel { major: 5, minor: 10 };

macro_rules! features {
    ($($(#[$doc:meta])* $variant:ident: $name:literal, $major:literal . $minor:literal, $stand_in:literal;)+) => {
        /// Everything beyond what Linux 5.10 has for certain.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Feature { $($(#[$doc])* $variant,)+ }

        impl Feature {
            pub const ALL: &'static [Feature] = &[$(Feature::$variant,)+];

            /// The kernel's name for it.
            pub const fn name(self) -> &'static str {
                match self { $(Feature::$variant => $name,)+ }
            }

            /// The first kernel that has it, by the documentation.
            pub const fn kernel(self) -> KernelLevel {
                match self { $(Feature::$variant => KernelLevel { major: $major, minor: $minor },)+ }
            }

            /// What is done without it.
            pub const fn stand_in(self) -> &'static str {
                match self { $(Feature::$variant => $stand_in,)+ }
            }
        }
    };
}

features! {
    CqeSkip: "no completion on success (CQE_SKIP)", 5 . 17, "the completion of a wake-up is ignored";
    MsgRing: "message to another ring (MSG_RING)", 5 . 18, "eventfd wakes the other shard";
    SubmitAll: "submission goes on after an error (SUBMIT_ALL)", 5 . 18, "the rest is submitted by the next turn";
    CoopTaskrun: "no interrupt for completions (COOP_TASKRUN)", 5 . 19, "the kernel interrupts the shard";
    BufferRing: "ring of provided buffers (PBUF_RING)", 5 . 19, "one shared buffer and plain recv";
    MultishotAccept: "multishot ACCEPT", 5 . 19, "POLL_ADD and accept4";
    SingleIssuer: "one submitting thread (SINGLE_ISSUER)", 6 . 0, "nothing";
    MultishotRecv: "multishot RECV", 6 . 0, "POLL_ADD and plain recv";
    DeferTaskrun: "completions when asked for (DEFER_TASKRUN)", 6 . 1, "COOP_TASKRUN";
    UdpSegment: "several datagrams in one send (UDP_SEGMENT)", 4 . 18, "sendmmsg";
    UdpGro: "several datagrams in one receive (UDP_GRO)", 5 . 0, "recvmmsg";
    ReuseportEbpf: "a program that picks the shard (REUSEPORT_EBPF)", 5 . 3, "mailbox to the owning shard";
    TimestampNs: "arrival times (SO_TIMESTAMPNS)", 2 . 6, "the time at which the turn began";
}

/// What the kernel has, and what of it may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    kernel: KernelLevel,
    /// Set when features of newer kernels are to be left alone.
    limit: Option<KernelLevel>,
    found: FeatureSet,
}

/// One bit a feature.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct FeatureSet(u32);

impl FeatureSet {
    pub(super) fn set(&mut self, feature: Feature, have: bool) {
        if have {
            self.0 |= 1 << feature as u32;
        }
    }

    const fn contains(self, feature: Feature) -> bool {
        self.0 & 1 << feature as u32 != 0
    }
}

impl Features {
    /// Tries every feature on this machine. Takes some milliseconds and leaves nothing behind.
    ///
    /// # Errors
    /// io_uring can't be used at all; the text says what to change.
    pub fn probe() -> Result<Features, SetupError> {
        // On a thread of its own: some milliseconds after a ring is closed the kernel interrupts the thread that used it, and a
        // blocking call of the caller's, if it has a time-out, would fail with EINTR.
        let (kernel, found) = std::thread::scope(|scope| scope.spawn(probe_kernel::probe).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(Features {
            kernel,
            limit: None,
            found,
        })
    }

    /// The same without what a kernel of `level` would lack.
    #[must_use]
    pub const fn limited_to(self, level: KernelLevel) -> Features {
        Features {
            limit: Some(level),
            ..self
        }
    }

    /// Whether `feature` is there and may be used.
    pub fn has(&self, feature: Feature) -> bool {
        self.found.contains(feature) && self.limit.is_none_or(|limit| feature.kernel() <= limit)
    }

    /// The version of the running kernel.
    pub const fn kernel(&self) -> KernelLevel {
        self.kernel
    }

    /// The kernel that the reactor behaves for: the running one, or an older one that it is limited to.
    pub fn level(&self) -> KernelLevel {
        self.limit.map_or(self.kernel, |limit| limit.min(self.kernel))
    }

    /// Whether TCP is received by multishot RECV into a buffer ring.
    pub(super) fn receives_by_ring(&self) -> bool {
        self.has(Feature::MultishotRecv) && self.has(Feature::BufferRing)
    }

    fn state(&self, feature: Feature) -> &'static str {
        if self.has(feature) {
            "yes"
        } else if self.found.contains(feature) {
            "held back by --kernel-level"
        } else {
            "no"
        }
    }

    fn use_of(&self, feature: Feature) -> &'static str {
        let used = self.has(feature)
            && match feature {
                // The buffer ring serves multishot RECV alone.
                Feature::BufferRing | Feature::MultishotRecv => self.receives_by_ring(),
                // DEFER_TASKRUN goes further than COOP_TASKRUN, and needs SINGLE_ISSUER.
                Feature::CoopTaskrun => !self.has(Feature::DeferTaskrun),
                Feature::DeferTaskrun => self.has(Feature::SingleIssuer),
                Feature::CqeSkip
                | Feature::MsgRing
                | Feature::SubmitAll
                | Feature::MultishotAccept
                | Feature::SingleIssuer
                | Feature::UdpSegment
                | Feature::UdpGro
                | Feature::ReuseportEbpf
                | Feature::TimestampNs => true,
            };
        if used { "yes" } else { "no" }
    }

    /// The table that `ringway probe` prints.
    pub fn probe_table(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Linux {}.{}", self.kernel.major, self.kernel.minor)?;
        if let Some(limit) = self.limit {
            write!(f, ", used as if it were {}.{}", limit.major, limit.minor)?;
        }
        writeln!(f, "\n")?;
        let row = |f: &mut fmt::Formatter<'_>, cells: [&str; 5]| {
            let [feature, kernel, have, used, stand_in] = cells;
            writeln!(f, "{feature:<50} {kernel:<8} {have:<28} {used:<8} {stand_in}")
        };
        row(f, ["feature", "needs", "have it", "used", "what stands in"])?;
        row(f, ["-------", "-----", "-------", "----", "--------------"])?;
        row(
            f,
            [
                "POLL_ADD, SEND, CONNECT, LINK_TIMEOUT, NODROP",
                "5.10",
                "yes",
                "yes",
                "nothing",
            ],
        )?;
        for &feature in Feature::ALL {
            let kernel = feature.kernel();
            row(
                f,
                [
                    feature.name(),
                    &format!("{}.{}", kernel.major, kernel.minor),
                    self.state(feature),
                    self.use_of(feature),
                    feature.stand_in(),
                ],
            )?;
        }
        Ok(())
    }
}

/// Why io_uring can't be used; the text says what to change.
#[derive(Debug)]
pub enum SetupError {
    /// The kernel was built without io_uring, or is older than it.
    Missing,
    /// The sysctl `kernel.io_uring_disabled` has this value.
    DisabledBySysctl(u8),
    /// Refused without a sysctl that says so: a seccomp filter or a security module.
    Forbidden,
    /// The ring doesn't fit into RLIMIT_MEMLOCK (kernels before 5.12).
    MemoryLock,
    /// The process or the machine has no file descriptors left.
    NoDescriptors,
    /// Something that Linux 5.10 has is not there.
    TooOld {
        lacking: &'static str,
    },
    Other(io::Error),
}

impl SetupError {
    /// Makes sense of what setting up a ring failed with.
    pub fn explain(error: io::Error) -> SetupError {
        match error.raw_os_error() {
            Some(libc::ENOSYS) => SetupError::Missing,
            Some(libc::EPERM | libc::EACCES) => match probe_kernel::io_uring_disabled() {
                Some(value) if value > 0 => SetupError::DisabledBySysctl(value),
                Some(_) | None => SetupError::Forbidden,
            },
            Some(libc::ENOMEM) => SetupError::MemoryLock,
            Some(libc::EMFILE | libc::ENFILE) => SetupError::NoDescriptors,
            _ => SetupError::Other(error),
        }
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("io_uring can't be used: ")?;
        match self {
            SetupError::Missing => f.write_str(
                "this kernel has no io_uring, or a seccomp filter hides it. Run Linux 5.10 or later with CONFIG_IO_URING, and in a \
                 container a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register",
            ),
            SetupError::DisabledBySysctl(value) => write!(
                f,
                "the sysctl kernel.io_uring_disabled is {value}. Set it to 0 (sysctl -w kernel.io_uring_disabled=0){}",
                if *value == 1 {
                    ", or run as a member of the group in kernel.io_uring_group, or with CAP_SYS_ADMIN"
                } else {
                    ""
                }
            ),
            SetupError::Forbidden => f.write_str(
                "the kernel forbids it (EPERM). In a container use a seccomp profile that allows io_uring_setup, io_uring_enter and \
                 io_uring_register (Docker: --security-opt seccomp=<profile>); else see the policy of the security module",
            ),
            SetupError::MemoryLock => f.write_str(
                "no memory for the ring (ENOMEM). Before Linux 5.12 rings count against the locked memory of the user: raise \
                 RLIMIT_MEMLOCK to 64 KiB a shard or more (ulimit -l, LimitMEMLOCK= in a systemd unit)",
            ),
            SetupError::NoDescriptors => {
                f.write_str("no file descriptors are left. Raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE= in a systemd unit)")
            }
            SetupError::TooOld { lacking } => {
                write!(f, "the kernel lacks {lacking}, which Linux 5.10 has. Run Linux 5.10 or later")
            }
            SetupError::Other(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for SetupError {}

#[cfg(test)]
mod tests {
    use super::*;

    const V5_10: KernelLevel = KernelLevel { major: 5, minor: 10 };
    const V5_19: KernelLevel = KernelLevel { major: 5, minor: 19 };

    fn everything() -> Features {
        let mut found = FeatureSet::default();
        for &feature in Feature::ALL {
            found.set(feature, true);
        }
        Features {
            kernel: KernelLevel { major: 6, minor: 18 },
            limit: None,
            found,
        }
    }

    #[test]
    fn a_kernel_level_holds_back_exactly_what_came_later() {
        let features = everything().limited_to(V5_19);
        assert!(features.has(Feature::MultishotAccept) && features.has(Feature::UdpSegment));
        assert!(!features.has(Feature::MultishotRecv) && !features.has(Feature::DeferTaskrun));
        assert!(!features.receives_by_ring());
        assert_eq!(features.level(), V5_19);
        let features = everything().limited_to(V5_10);
        assert!(
            Feature::ALL
                .iter()
                .all(|&feature| features.has(feature) == (feature.kernel() <= V5_10))
        );
        assert!(Feature::ALL.iter().all(|&feature| everything().has(feature)));
    }

    #[test]
    fn the_table_says_what_is_held_back_and_what_stands_in() {
        let table = everything().limited_to(V5_19).probe_table();
        assert!(
            table.starts_with("Linux 6.18, used as if it were 5.19\n"),
            "{table}"
        );
        let line = table
            .lines()
            .find(|line| line.starts_with("multishot RECV"))
            .expect("a row");
        assert!(
            line.contains("6.0") && line.contains("held back by --kernel-level"),
            "{line}"
        );
        assert!(line.ends_with("POLL_ADD and plain recv"), "{line}");
        assert_eq!(
            table.lines().filter(|line| !line.is_empty()).count(),
            Feature::ALL.len() + 4
        );
    }

    #[test]
    fn a_ring_that_cannot_be_had_says_what_to_change() {
        for (errno, hint) in [
            (libc::ENOSYS, "Linux 5.10"),
            (libc::ENOMEM, "RLIMIT_MEMLOCK"),
            (libc::EMFILE, "RLIMIT_NOFILE"),
            (libc::EPERM, "io_uring"),
        ] {
            let text = SetupError::explain(io::Error::from_raw_os_error(errno)).to_string();
            assert!(text.contains(hint), "{text}");
        }
        let text = SetupError::DisabledBySysctl(1).to_string();
        assert!(
            text.contains("kernel.io_uring_disabled") && text.contains("io_uring_group"),
            "{text}"
        );
    }
}
