//! What people see of a server: never on the packet path.

pub mod summary;
pub mod trial;
