//! What tools read of a session beyond its tables, without leaving a trace.
//!
//! The hold records are a sparse table of processes by objects, of many gigabytes if it were full. A read of a hole through
//! the mapping would put a page there for good, so they are read through the descriptor, and only where there is something.

use std::ops::Range;

use crate::error::{Corrupt, ShmError};
use crate::layout::Geometry;
use crate::objects::HELD;
use crate::session::Session;

/// A hold record as it was when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldView {
    /// The object's number.
    pub object: u32,
    /// Does the process hold the object?
    pub held: bool,
    /// The number that the object's kind keeps for the process (units of a semaphore, say).
    pub units: u64,
}

/// Bytes read at a time.
const CHUNK: u64 = 64 << 10;

impl Session {
    /// What process slot `process` has to do with `objects`: calls `found` for each record that is not empty.
    pub fn view_holds(
        &self,
        process: u32,
        objects: Range<u32>,
        mut found: impl FnMut(HoldView),
    ) -> Result<(), ShmError> {
        let geometry = self.geometry();
        if process >= geometry.processes || objects.end > geometry.objects {
            return Err(Corrupt("a hold record is out of range").into());
        }
        let memory = self.segment().memory();
        let row = geometry.hold(process, 0);
        let end = geometry.hold(process, objects.end);
        let mut at = geometry.hold(process, objects.start);
        let mut bytes = Vec::new();
        while at < end {
            let Some(present) = memory.next_present(at) else {
                break;
            };
            at = at.max(present - present % Geometry::HOLD);
            if at >= end {
                break;
            }
            bytes.resize((end - at).min(CHUNK) as usize, 0);
            memory
                .read_at(at, &mut bytes)
                .map_err(ShmError::system("read the session's memory"))?;
            for (i, record) in bytes.chunks_exact(Geometry::HOLD as usize).enumerate() {
                let word = |from: usize| {
                    u64::from_ne_bytes(record[from..from + 8].try_into().expect("eight bytes"))
                };
                let (flags, units) = (word(0), word(8));
                if flags != 0 || units != 0 {
                    found(HoldView {
                        object: ((at - row) / Geometry::HOLD) as u32 + i as u32,
                        held: flags & HELD != 0,
                        units,
                    });
                }
            }
            at += bytes.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::create;
    use crate::sync::Event;

    #[test]
    fn holds_are_found_and_holes_stay_holes() {
        let session = create("observe", None).unwrap();
        let me = session.me().unwrap().slot();
        let events: Vec<Event> = (0..300)
            .map(|_| Event::create(session, "e").unwrap())
            .collect();
        let dropped = events[7].handle().index();
        let events: Vec<Event> = events
            .into_iter()
            .filter(|e| e.handle().index() != dropped)
            .collect();
        let before = session.segment().memory().resident_bytes().unwrap();
        let mut seen = Vec::new();
        let all = 0..session.geometry().objects;
        session
            .view_holds(me, all.clone(), |h| {
                assert!(h.held);
                seen.push(h.object);
            })
            .unwrap();
        let held: Vec<u32> = events.iter().map(|e| e.handle().index()).collect();
        assert_eq!(seen, held);
        for other in 0..session.geometry().processes {
            if other != me {
                session
                    .view_holds(other, all.clone(), |_| panic!("nobody is there"))
                    .unwrap();
            }
        }
        let mut one = Vec::new();
        session
            .view_holds(me, held[200]..held[200] + 1, |h| one.push(h.object))
            .unwrap();
        assert_eq!(one, [held[200]]);
        assert_eq!(session.segment().memory().resident_bytes().unwrap(), before);
        assert!(session.view_holds(u32::MAX, 0..1, |_| ()).is_err());
        assert!(session.view_holds(0, 0..u32::MAX, |_| ()).is_err());
    }
}
