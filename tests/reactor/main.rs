//! The reactor on real sockets, without any SIP: every test runs with all features that the kernel has, and held back to
//! what older kernels lack, and spinning before it sleeps.

mod errors;
mod harness;
mod limits;
mod tcp;
mod udp;
mod wake;

/// Runs functions of the calling module as tests at every kernel level.
macro_rules! at_every_level {
    ($($name:ident,)+) => {
        at_every_level!(@ linux_5_10, Some((5, 10)), $($name,)+);
        at_every_level!(@ linux_5_19, Some((5, 19)), $($name,)+);
        at_every_level!(@ linux_6_0, Some((6, 0)), $($name,)+);
        at_every_level!(@ native, None, $($name,)+);
        at_every_level!(@ native_that_spins, crate::harness::SPINNING, $($name,)+);
    };
    (@ $level:ident, $value:expr, $($name:ident,)+) => {
        mod $level {
            $(
                #[test]
                fn $name() {
                    super::$name($value);
                }
            )+
        }
    };
}
pub(crate) use at_every_level;
