//! How what was found is shown: tables for people, JSON for programs.

pub mod json;
pub mod table;
mod text;
