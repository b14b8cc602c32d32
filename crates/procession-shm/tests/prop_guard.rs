//! Sections that are left anywhere: by a commit, an error, or the death of their owner.
#![cfg(not(loom))]

use procession_shm::guard::Guard;
use procession_shm::memory::Memory;
use procession_shm::primitive::{AtomicU32, AtomicU64, Ordering};
use procession_shm::{Session, kinds};
use proptest::prelude::*;

const WORDS: usize = 6;

#[derive(Debug, Clone, Copy)]
enum End {
    Commit,
    /// Dropped without a commit, as when an error ends the function.
    Leave,
    /// The thread ends inside, as when it is killed there.
    Die,
    /// Committed by a word that readers see, then the thread dies.
    CommitOnAndDie,
}

/// What one section does: changes of words, with checkpoints after some of them, and how it ends.
#[derive(Debug, Clone)]
struct Section {
    sets: Vec<(usize, u64, bool)>,
    end: End,
}

fn section() -> impl Strategy<Value = Section> {
    let end = prop_oneof![
        Just(End::Commit),
        Just(End::Leave),
        Just(End::Die),
        Just(End::CommitOnAndDie)
    ];
    // As many changes as the log has room for.
    let set = (0..WORDS, any::<u64>(), prop::bool::weighted(0.1));
    (prop::collection::vec(set, 0..=14), end).prop_map(|(sets, end)| Section { sets, end })
}

struct Shared {
    session: &'static Session,
    guard: &'static Guard,
    words: &'static [AtomicU64; WORDS],
    /// The word that readers see.
    seen: &'static AtomicU64,
}

impl Shared {
    fn new(session: &'static Session) -> (Memory, Self) {
        let memory = Memory::create(session, "guarded", 4096).unwrap();
        let (segment, at) = (session.segment(), memory.offset());
        let guard: &'static Guard = segment.at(at).unwrap();
        guard.init().unwrap();
        let shared = Self {
            session,
            guard,
            words: segment.at(at + 2048).unwrap(),
            seen: segment.at(at + 3072).unwrap(),
        };
        (memory, shared)
    }

    fn read(&self) -> ([u64; WORDS], u64) {
        let words = self.words.each_ref().map(|w| w.load(Ordering::SeqCst));
        (words, self.seen.load(Ordering::SeqCst))
    }

    fn run(&self, section: &Section) {
        let mut txn = self.guard.lock(self.session).unwrap();
        for (word, value, checkpoint) in &section.sets {
            txn.set(&self.words[*word], *value);
            if *checkpoint {
                txn.checkpoint();
            }
        }
        match section.end {
            End::Commit => txn.commit(),
            End::Leave => drop(txn),
            End::Die => std::mem::forget(txn),
            End::CommitOnAndDie => {
                txn.commit_on(self.seen, self.seen.load(Ordering::SeqCst) + 1);
                std::mem::forget(txn);
            }
        }
    }
}

/// What the words are after a section, by the rules.
fn predict(before: ([u64; WORDS], u64), section: &Section) -> ([u64; WORDS], u64) {
    let (mut committed, mut seen) = before;
    let mut now = committed;
    for (word, value, checkpoint) in &section.sets {
        now[*word] = *value;
        if *checkpoint {
            committed = now;
        }
    }
    match section.end {
        End::Commit => committed = now,
        End::Leave | End::Die => {}
        End::CommitOnAndDie => {
            committed = now;
            seen += 1;
        }
    }
    (committed, seen)
}

thread_local! {
    static SESSION: &'static Session = kinds::create("guard", None).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_section_happens_or_it_does_not(sections in prop::collection::vec(section(), 1..12)) {
        let session = SESSION.with(|s| *s);
        let (_memory, shared) = Shared::new(session);
        let mut expected = shared.read();
        for section in &sections {
            expected = predict(expected, section);
            std::thread::scope(|scope| {
                scope.spawn(|| shared.run(section)).join().unwrap();
            });
            let is_dead = matches!(section.end, End::Die | End::CommitOnAndDie);
            let txn = shared.guard.lock(session).unwrap();
            prop_assert_eq!(txn.recovered(), is_dead);
            drop(txn);
            prop_assert_eq!(shared.read(), expected);
        }
    }
}

#[test]
fn a_log_that_cannot_be_right_closes_the_guard_and_changes_nothing() {
    let (_memory, shared) = Shared::new(kinds::create("guard", None).unwrap());
    let section = Section {
        sets: vec![(0, 5, false)],
        end: End::Die,
    };
    std::thread::scope(|scope| {
        scope.spawn(|| shared.run(&section)).join().unwrap();
    });
    // The first entry's offset, behind the mutex and three words, now points nowhere.
    let at = shared.session.segment().offset_of(shared.guard) + 64 + 24;
    let entry: &'static AtomicU64 = shared.session.segment().at(at).unwrap();
    assert_eq!(
        entry.load(Ordering::SeqCst),
        shared.session.segment().offset_of(&shared.words[0])
    );
    entry.store(u64::MAX, Ordering::SeqCst);
    for _ in 0..2 {
        assert!(shared.guard.lock(shared.session).is_err());
    }
    assert_eq!(shared.read().0[0], 5);
}

#[test]
fn a_guard_that_nobody_holds_and_nobody_can_have_is_an_error() {
    let (_memory, shared) = Shared::new(kinds::create("guard", None).unwrap());
    let at = shared.session.segment().offset_of(shared.guard);
    let words: &'static [AtomicU32; 2] = shared.session.segment().at(at).unwrap();
    // A thread id beyond all that a system may have, in whichever of the two words is the one.
    for word in words {
        word.store(0x3fff_fffe, Ordering::SeqCst);
    }
    assert!(shared.guard.lock(shared.session).is_err());
}
