//! One object of every kind, and messages of every shape.

use procession_shm::arena::BlockOwner;
use procession_shm::bundle::{self, Part};
use procession_shm::memory::Memory;
use procession_shm::objects::Handle;
use procession_shm::pipe::{self, PipeEnd};
use procession_shm::primitive::{AtomicU64, Ordering};
use procession_shm::ring::{INLINE_MAX, Message, Port, Ring, RingOptions};
use procession_shm::store::{Key, List, Map, Outcome, Stored, Target};
use procession_shm::sync::{Barrier, Condition, Event, Lock, Semaphore};
use procession_shm::{Session, ShmError, WaitError};
use procession_sys::clock::Deadline;

use super::stores::got;
use super::{calmly, content, eventually, within};

/// Where a process says how far it has come: survives it.
#[derive(Clone)]
pub struct Diary(Memory);

impl Diary {
    /// One of so many lines.
    pub fn create(session: &'static Session, lines: u64) -> Self {
        Self(Memory::create(session, "diary", lines * 8).unwrap())
    }

    /// The one that a handle means.
    pub fn of(handle: Handle) -> Self {
        Self(Memory::of(handle).unwrap())
    }

    /// Its handle.
    pub fn handle(&self) -> &Handle {
        self.0.handle()
    }

    /// Adds one to a line.
    pub fn add(&self, line: u64) {
        self.word(line).fetch_add(1, Ordering::SeqCst);
    }

    fn word(&self, line: u64) -> &'static AtomicU64 {
        let session = self.0.handle().session();
        session.segment().at(self.0.offset() + line * 8).unwrap()
    }

    /// Writes a line.
    pub fn write(&self, line: u64, value: u64) {
        self.word(line).store(value, Ordering::SeqCst);
    }

    /// Writes two lines: which object a handle means.
    pub fn write_handle(&self, line: u64, handle: &Handle) {
        self.write(line + 1, handle.generation().into());
        // Last: a reader who sees it sees both.
        self.write(line, u64::from(handle.index()) + 1);
    }

    /// The object that two lines tell of, if they do and it still exists.
    pub fn read_handle(&self, line: u64) -> Option<Handle> {
        let index = self.read(line).checked_sub(1)?;
        let session = self.0.handle().session();
        match session.hold(index as u32, self.read(line + 1) as u32) {
            Ok(handle) => Some(handle),
            Err(ShmError::Gone) => None,
            Err(other) => panic!("{other}"),
        }
    }

    /// Reads a line.
    pub fn read(&self, line: u64) -> u64 {
        self.word(line).load(Ordering::SeqCst)
    }
}

/// One object of every kind, held by this process.
pub struct World {
    pub session: &'static Session,
    pub diary: Diary,
    pub ring: Ring,
    pub small: Ring,
    pub ends: (PipeEnd, PipeEnd),
    pub lock: Lock,
    pub semaphore: Semaphore,
    pub condition: Condition,
    pub event: Event,
    pub barrier: Barrier,
    pub solo: Barrier,
    pub map: Map,
    pub list: List,
}

impl World {
    /// Makes all of them.
    pub fn create(session: &'static Session) -> Self {
        let few = RingOptions {
            max_messages: 2,
            max_bytes: 0,
        };
        Self {
            session,
            diary: Diary::create(session, 512),
            ring: Ring::create(session, "ring", RingOptions::default()).unwrap(),
            small: Ring::create(session, "small", few).unwrap(),
            ends: pipe::create(session, "pipe", true).unwrap(),
            lock: Lock::create(session, "lock").unwrap(),
            semaphore: Semaphore::create(session, "semaphore", 2, 2).unwrap(),
            condition: Condition::create(session, "condition").unwrap(),
            event: Event::create(session, "event").unwrap(),
            barrier: Barrier::create(session, "barrier", 2).unwrap(),
            solo: Barrier::create(session, "solo", 1).unwrap(),
            map: Map::create(session, "map").unwrap(),
            list: List::create(session, "list").unwrap(),
        }
    }

    fn handles(&self) -> [&Handle; 13] {
        [
            self.diary.handle(),
            self.ring.handle(),
            self.small.handle(),
            self.ends.0.handle(),
            self.ends.1.handle(),
            self.lock.handle(),
            self.semaphore.handle(),
            self.condition.handle(),
            self.event.handle(),
            self.barrier.handle(),
            self.solo.handle(),
            self.map.handle(),
            self.list.handle(),
        ]
    }

    /// What a child needs to find them: two numbers each.
    pub fn names(&self) -> Vec<u64> {
        let pair = |h: &Handle| [u64::from(h.index()), u64::from(h.generation())];
        self.handles().into_iter().flat_map(pair).collect()
    }

    /// Finds them in a child.
    pub fn find(session: &'static Session, names: &[u64]) -> Self {
        let at = |i: usize| {
            session
                .hold(names[2 * i] as u32, names[2 * i + 1] as u32)
                .unwrap()
        };
        Self {
            session,
            diary: Diary::of(at(0)),
            ring: Ring::of(at(1)).unwrap(),
            small: Ring::of(at(2)).unwrap(),
            ends: (PipeEnd::of(at(3)).unwrap(), PipeEnd::of(at(4)).unwrap()),
            lock: Lock::of(at(5)).unwrap(),
            semaphore: Semaphore::of(at(6)).unwrap(),
            condition: Condition::of(at(7)).unwrap(),
            event: Event::of(at(8)).unwrap(),
            barrier: Barrier::of(at(9)).unwrap(),
            solo: Barrier::of(at(10)).unwrap(),
            map: Map::of(at(11)).unwrap(),
            list: List::of(at(12)).unwrap(),
        }
    }

    /// A block of this process with the contents of `tag`.
    pub fn block(&self, tag: u64, len: usize) -> u64 {
        let at = self.session.alloc(len as u64, self.mine()).unwrap();
        // Large ones have their contents at the start, so that making them takes no time.
        self.session
            .segment()
            .write(at, &content(tag, len.min(4096)))
            .unwrap();
        at
    }

    fn mine(&self) -> BlockOwner {
        BlockOwner::process(self.session.me().unwrap())
    }

    /// Puts message `seq`; its shape depends on the number alone.
    pub fn put(&self, port: Port<'_>, seq: u64) {
        let (len, extra) = shape(seq);
        let mut bytes = seq.to_le_bytes().to_vec();
        bytes.extend(content(seq, len));
        let (head, tail) = bytes.split_at(bytes.len() / 3);
        let block = match extra {
            Extra::None => None,
            Extra::Block(len) => Some(self.block(!seq, len)),
            Extra::Ticket => Some(self.session.make_ticket(self.lock.handle()).unwrap()),
            Extra::Bundle => {
                let parts = [
                    Part {
                        at: self.block(!seq, 3 << 20),
                        len: 3 << 20,
                    },
                    Part {
                        at: self.session.make_ticket(self.lock.handle()).unwrap(),
                        len: 8,
                    },
                    Part {
                        at: self.block(!seq + 1, 300),
                        len: 300,
                    },
                ];
                Some(bundle::bind(self.session, &parts).unwrap())
            }
        };
        port.put(
            Message {
                bytes: head,
                tail,
                block,
            },
            within(60),
            &mut calmly,
        )
        .unwrap();
    }

    /// Takes the next message if there is one, checks every byte of it, and says its number.
    pub fn take(&self, port: Port<'_>) -> Option<u64> {
        self.take_within(port, Deadline::NOW, |_| ())
    }

    /// As [`World::take`], waiting for a message; `is_at_hand` is told its number at the first sight of it. A message that
    /// travels in a block is seen only once it has been taken, any other before.
    pub fn take_within(
        &self,
        port: Port<'_>,
        deadline: Deadline,
        is_at_hand: impl Fn(u64),
    ) -> Option<u64> {
        let seen = |bytes: &[u8], block: Option<u64>| {
            is_at_hand(u64::from_le_bytes(bytes[..8].try_into().unwrap()));
            (bytes.to_vec(), block)
        };
        let (bytes, block) = match port.get(deadline, &mut calmly, seen) {
            Ok(got) => got,
            Err(WaitError::TimedOut) => return None,
            Err(other) => panic!("{other}"),
        };
        let seq = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let (len, extra) = shape(seq);
        assert!(bytes[8..] == content(seq, len), "message {seq} is torn");
        match (extra, block) {
            (Extra::None, None) => {}
            (Extra::Block(len), Some(at)) => self.check_block(at, !seq, len),
            (Extra::Ticket, Some(at)) => self.check_ticket(at),
            (Extra::Bundle, Some(at)) => {
                let parts = bundle::unbind(self.session, at).unwrap();
                assert_eq!(
                    parts.iter().map(|p| p.len).collect::<Vec<_>>(),
                    [3 << 20, 8, 300]
                );
                self.check_block(parts[0].at, !seq, 3 << 20);
                self.check_ticket(parts[1].at);
                self.check_block(parts[2].at, !seq + 1, 300);
            }
            (extra, block) => panic!("message {seq} came with {block:?} instead of {extra:?}"),
        }
        Some(seq)
    }

    /// Checks a block with the contents of `tag`, and frees it.
    pub fn check_block(&self, at: u64, tag: u64, len: usize) {
        assert!(self.session.owns(at), "a block came without its ownership");
        assert!(self.session.block_size(at).unwrap() >= len as u64);
        let bytes = self
            .session
            .segment()
            .bytes(at, len.min(4096) as u64)
            .unwrap();
        assert!(
            bytes == content(tag, len.min(4096)),
            "a block of {len} bytes is torn"
        );
        self.session.free_block(at).unwrap();
    }

    fn check_ticket(&self, at: u64) {
        let handle = self.session.redeem(at).unwrap();
        assert_eq!(handle.index(), self.lock.handle().index());
        self.session.free_block(at).unwrap();
    }

    /// Everything works, whoever has died: each operation gets a bounded time.
    pub fn exercise(&self) {
        let (session, limit) = (self.session, || within(10));
        self.lock.acquire(limit(), &mut calmly).unwrap();
        assert!(self.lock.release());
        eventually("the semaphore has its units", || {
            session.sweep().unwrap();
            self.semaphore.value() == 2
        });
        for _ in 0..2 {
            self.semaphore.acquire(limit(), &mut calmly).unwrap();
        }
        assert!(!self.semaphore.try_acquire().unwrap());
        assert!(self.semaphore.release().unwrap() && self.semaphore.release().unwrap());
        assert!(
            !self.semaphore.release().unwrap(),
            "more units than there may be"
        );
        let ticket = self.condition.enlist().unwrap();
        eventually("only our ticket is open", || {
            session.sweep().unwrap();
            self.condition.waiters() == 1
        });
        assert_eq!(self.condition.notify(5), 1);
        ticket.wait(limit(), &mut calmly).unwrap();
        assert!(ticket.leave());
        self.event.set();
        self.event.wait(limit(), &mut calmly).unwrap();
        self.event.clear();
        self.barrier.reset().unwrap();
        let first = self.barrier.arrive(limit(), &mut calmly).unwrap().unwrap();
        let second = self.barrier.arrive(limit(), &mut calmly).unwrap().unwrap();
        assert!(!first.last && second.last);
        self.barrier
            .open(second, Deadline::NEVER, &mut || true)
            .unwrap()
            .unwrap();
        self.barrier
            .wait(first, limit(), &mut calmly)
            .unwrap()
            .unwrap();
        for port in [self.ring.port(), self.small.port()] {
            assert_eq!(self.take(port), None, "left behind");
            for seq in [0, 6] {
                self.put(port, seq);
            }
            assert_eq!([self.take(port), self.take(port)], [Some(0), Some(6)]);
        }
        let mut seen = |bytes: &[u8], _: Option<u64>| bytes.to_vec();
        self.ends
            .0
            .send(Message::new(b"ping"), limit(), &mut calmly)
            .unwrap();
        assert_eq!(
            self.ends.1.recv(limit(), &mut calmly, &mut seen).unwrap(),
            b"ping"
        );
        let key = Key::plain(b"exercise");
        let mut value = Stored::make(session, Message::new(&[5; 500])).unwrap();
        let set = self.map.set(Target::Key(&key), &mut value).unwrap();
        assert_eq!(set, Outcome::Absent);
        let seen = self.map.remove(Target::Key(&key), &mut got).unwrap();
        assert_eq!(seen, Outcome::Found((vec![5; 500], vec![])));
        let mut value = Stored::make(session, Message::new(&[6; 500])).unwrap();
        self.list.push(&mut value).unwrap();
        let seen = self.list.pop(-1, &mut got).unwrap();
        assert_eq!(seen, Some((vec![6; 500], vec![])));
        session.free_block(self.block(1, 5 << 20)).unwrap();
        session.free_block(self.block(1, 100)).unwrap();
    }
}

/// What a message has besides its bytes.
#[derive(Debug, Clone, Copy)]
enum Extra {
    None,
    Block(usize),
    Ticket,
    Bundle,
}

/// Messages in one round of shapes.
pub const SHAPES: u64 = 12;

/// Does the message travel in a block?
pub fn is_long(seq: u64) -> bool {
    shape(seq).0 > INLINE_MAX
}

/// Inline and in blocks, with one block, a ticket and several; the ring has to grow for some.
fn shape(seq: u64) -> (usize, Extra) {
    match seq % SHAPES {
        1 => (1000, Extra::None),
        2 | 3 => (3000, Extra::None),
        4 => (100_000, Extra::None),
        5 => (40, Extra::Block(2000)),
        6 => (90_000, Extra::Block(64)),
        7 => (0, Extra::Ticket),
        8 => (20, Extra::Bundle),
        9 => (20_000, Extra::None),
        10 => (7, Extra::None),
        _ => (16, Extra::None),
    }
}
