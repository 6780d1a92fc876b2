//! What people see of a server: never on the packet path.

pub mod capture;
pub mod collect;
pub mod hlog;
pub mod ports;
pub mod records;
pub mod rotation;
pub mod summary;
pub mod trial;
