//! How the members of a session are named, and what they are.

/// A process slot in a certain use: slot number in the low 12 bits, the number of the use (from 1) above. It fits 31 bits,
/// so that a lock word has one left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner(u32);

impl Owner {
    const SLOT_BITS: u32 = 12;
    pub(crate) const EPOCHS: u32 = 1 << (31 - Self::SLOT_BITS);

    /// From a shared word; `None` for zero.
    pub fn from_word(word: u32) -> Option<Self> {
        (word != 0).then_some(Self(word))
    }

    /// For a shared word.
    pub fn word(self) -> u32 {
        self.0
    }

    /// The slot's number.
    pub fn slot(self) -> u32 {
        self.0 & ((1 << Self::SLOT_BITS) - 1)
    }

    pub(crate) fn epoch(self) -> u32 {
        self.0 >> Self::SLOT_BITS
    }

    pub(crate) fn new(slot: u32, epoch: u32) -> Self {
        Self(epoch << Self::SLOT_BITS | slot)
    }
}

/// A slot's life. `DYING` comes from any of the states before it.
#[repr(u64)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nobody's.
    Free = 0,
    /// Taken by a parent for a child that has not entered yet.
    Reserved = 1,
    /// A member.
    Live = 2,
    /// It has ended or died; what it held is being given back.
    Dying = 3,
    /// All given back; its exit status may still be asked for.
    Gone = 4,
}

impl State {
    /// From the shared word.
    pub fn from_word(word: u64) -> Option<Self> {
        [
            Self::Free,
            Self::Reserved,
            Self::Live,
            Self::Dying,
            Self::Gone,
        ]
        .into_iter()
        .find(|s| *s as u64 == word)
    }
}

/// What a member is there for.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The first process of the program.
    Main = 0,
    /// Started by the user.
    Process = 1,
    /// A worker of a pool.
    Worker = 2,
    /// The template that forks others.
    Zygote = 3,
    /// Serves managed objects.
    Manager = 4,
    /// Came by a plain `fork()`.
    Forked = 5,
}

impl Role {
    /// From the shared word; what is unknown is a process.
    pub fn from_word(word: u32) -> Self {
        [
            Self::Main,
            Self::Process,
            Self::Worker,
            Self::Zygote,
            Self::Manager,
            Self::Forked,
        ]
        .into_iter()
        .find(|r| *r as u32 == word)
        .unwrap_or(Self::Process)
    }

    /// As shown to people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Process => "process",
            Self::Worker => "worker",
            Self::Zygote => "zygote",
            Self::Manager => "manager",
            Self::Forked => "forked",
        }
    }

    /// The role with this name.
    pub fn named(name: &str) -> Option<Self> {
        [
            Self::Main,
            Self::Process,
            Self::Worker,
            Self::Zygote,
            Self::Manager,
            Self::Forked,
        ]
        .into_iter()
        .find(|r| r.as_str() == name)
    }
}
