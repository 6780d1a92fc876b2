//! Counters by kind: what a run was made of, each under its name.

/// A struct of counters that can be added up and gone through, so that no kind is forgotten in a sum or a summary.
macro_rules! tally {
    ($(#[$about:meta])* pub struct $name:ident { $($(#[$doc:meta])* $kind:ident,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Default, Debug)]
        pub struct $name {
            $($(#[$doc])* pub $kind: u64,)+
        }

        impl $name {
            pub fn add(&mut self, other: &$name) {
                $(self.$kind += other.$kind;)+
            }

            /// Each kind with how often it happened.
            pub fn kinds(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($kind), self.$kind),)+].into_iter()
            }
        }
    };
}

pub(super) use tally;
