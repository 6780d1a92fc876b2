//! Domain names, and what is asked of DNS about them: plain values that the core, the control port and the control thread share.

pub mod name;
pub mod record;

pub use name::DomainName;
pub use record::{Answer, Naptr, Question, RECORDS_MAX, Record, RecordType, Srv};
