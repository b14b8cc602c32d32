//! All kinds of objects that a session can hold: the one place that knows every module above the tables.

use crate::error::ShmError;
use crate::objects::KindOps;
use crate::session::Session;
use crate::{board, memory, pipe, ring, store, sync};

/// The table that every member of a session works with.
pub static KINDS: &[&KindOps] = &[
    &ring::OPS,
    &pipe::PIPE_OPS,
    &pipe::END_OPS,
    &memory::OPS,
    sync::OPS[0],
    sync::OPS[1],
    sync::OPS[2],
    sync::OPS[3],
    sync::OPS[4],
    sync::OPS[5],
    &board::OPS,
    &store::MAP_OPS,
    &store::LIST_OPS,
];

/// Makes a session for this process (see [`Session::create`]).
pub fn create(name: &str, budget: Option<u64>) -> Result<&'static Session, ShmError> {
    Session::create(KINDS, name, budget)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_kind_has_a_number_of_its_own() {
        let numbers: HashSet<u8> = KINDS.iter().map(|k| k.number).collect();
        assert_eq!(numbers.len(), KINDS.len());
    }
}
