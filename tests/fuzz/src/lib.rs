//! What must hold for any bytes whatever: of the message layer, and of the shards of a server. Each check panics where it does
//! not.

mod edit;
mod frame;
mod shard;
mod stun;
mod token;
mod twin;
mod views;

use ringway::msg::edit::Edits;
use ringway::msg::scan::Table;

/// The checks, with the memory that the server keeps from one message to the next.
pub struct Checks {
    table: Box<Table>,
    edits: Box<Edits>,
    out: Vec<u8>,
}

impl Checks {
    pub fn new() -> Checks {
        Checks {
            table: Box::default(),
            edits: Box::default(),
            out: vec![0; 128 * 1024],
        }
    }

    /// `scan` says what its slow twin says.
    pub fn scan(&mut self, data: &[u8]) {
        twin::check(data, &mut self.table);
    }

    /// Views lie within the message, parse to the same again, and answers can be read.
    pub fn views(&mut self, data: &[u8]) {
        views::check(data, &mut self.table, &mut self.out);
    }

    /// Edits do what a naive model of them does.
    pub fn edit(&mut self, data: &[u8]) {
        edit::check(data, &mut self.edits, &mut self.out);
    }

    /// A stream is cut in the same places however it arrives, and `scan` agrees with where.
    pub fn frame(&mut self, data: &[u8]) {
        frame::check(data, &mut self.table);
    }

    /// Only a Binding request is answered, under its own transaction and with the address that it came from.
    pub fn stun(&mut self, data: &[u8]) {
        stun::check(data);
    }

    /// A name that is accepted is one of ours, and each of ours comes back whole.
    pub fn token(&mut self, data: &[u8]) {
        token::check(data);
    }

    /// Shards keep their promises through a sequence of operations.
    pub fn shard(&mut self, data: &[u8]) {
        shard::check(data);
    }
}

impl Default for Checks {
    fn default() -> Checks {
        Checks::new()
    }
}
