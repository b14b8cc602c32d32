//! Ranges of ints, the commonest input of a map: sent as what they are, and not int by int.

use pyo3::prelude::*;
use pyo3::types::PyRange;

use super::RANGE;

/// Ints at equal distances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    start: i64,
    step: i64,
    len: usize,
}

impl Range {
    /// Of a Python range whose ints fit.
    pub(crate) fn of(obj: &Bound<'_, PyAny>) -> Option<Self> {
        let range = obj.cast_exact::<PyRange>().ok()?;
        let int = |name| range.getattr(name).ok()?.extract::<i64>().ok();
        let (start, step, len) = (int("start")?, int("step")?, range.len().ok()?);
        let steps = i64::try_from(len.saturating_sub(1)).ok()?;
        start.checked_add(step.checked_mul(steps)?)?;
        Some(Self { start, step, len })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The one at a place, if it goes on so far.
    pub(crate) fn get(&self, at: usize) -> Option<i64> {
        (at < self.len).then(|| self.at(at))
    }

    /// The first one, if there is one.
    pub(crate) fn first(&self) -> i64 {
        self.start
    }

    /// What stands at a place, or would there if it went on so far.
    fn at(&self, at: usize) -> i64 {
        self.start.wrapping_add(self.step.wrapping_mul(at as i64))
    }

    /// Takes the first one.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<i64> {
        self.len = self.len.checked_sub(1)?;
        let first = self.start;
        self.start = first.wrapping_add(self.step);
        Some(first)
    }

    /// Takes up to so many off the front.
    pub(crate) fn split(&mut self, most: usize) -> Self {
        let len = most.min(self.len);
        let first = Self { len, ..*self };
        self.start = self.at(len);
        self.len -= len;
        first
    }

    /// As a batch's arguments.
    pub(crate) fn arguments(&self) -> [u8; 21] {
        let mut out = [RANGE; 21];
        out[1..9].copy_from_slice(&self.start.to_le_bytes());
        out[9..17].copy_from_slice(&self.step.to_le_bytes());
        out[17..].copy_from_slice(&(self.len as u32).to_le_bytes());
        out
    }

    /// What [`Range::arguments`] has written, without its tag.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (start, rest) = bytes.split_first_chunk::<8>()?;
        let (step, rest) = rest.split_first_chunk::<8>()?;
        Some(Self {
            start: i64::from_le_bytes(*start),
            step: i64::from_le_bytes(*step),
            len: u32::from_le_bytes(rest.try_into().ok()?) as usize,
        })
    }
}
