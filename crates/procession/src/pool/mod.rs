//! pool
use procession_shm::Session;
use crate::registry::Input;
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Assignment;
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkError { #[error("x")] X }
pub(crate) fn work(_: &'static Session, _: Assignment, _: Input<'_>) -> Result<i32, WorkError> { Err(WorkError::X) }
