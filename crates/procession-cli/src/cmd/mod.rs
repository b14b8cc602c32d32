//! The verbs.

pub(crate) mod ps;
