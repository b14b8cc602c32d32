//! Handles of shared objects on their way in a message.
//!
//! For every handle the sender makes a ticket, a block that counts as a holder of the object, so that the object lives even
//! if the sender drops it (or dies) before the receiver looks. All tickets of a message travel as one bundle.

use procession_shm::bundle::{self, Part};
use procession_shm::objects::Handle;
use procession_shm::primitive::{AtomicU64, Ordering};
use procession_shm::{Session, ShmError};

/// The tickets of a message that is being put together. Dropped unsent, it takes them back.
#[derive(Debug)]
pub struct Outgoing {
    session: &'static Session,
    tickets: Vec<u64>,
}

impl Outgoing {
    /// None yet.
    pub fn new(session: &'static Session) -> Self {
        Self {
            session,
            tickets: Vec::new(),
        }
    }

    /// Adds a handle; the answer is the number by which the receiver asks for it.
    pub fn add(&mut self, handle: &Handle) -> Result<u32, ShmError> {
        if handle.session().id() != self.session.id() {
            return Err(ShmError::Gone);
        }
        self.tickets.push(self.session.make_ticket(handle)?);
        Ok(self.tickets.len() as u32 - 1)
    }

    /// The block to send along, if there is anything to send.
    pub fn pack(mut self) -> Result<Option<Parcel>, ShmError> {
        if self.tickets.is_empty() {
            return Ok(None);
        }
        let mut parts = Vec::with_capacity(self.tickets.len());
        for &at in &self.tickets {
            let len = self.session.block_size(at)?;
            parts.push(Part { at, len });
        }
        let block = bundle::bind(self.session, &parts)?;
        // From here on they are the bundle's.
        self.tickets.clear();
        Ok(Some(Parcel {
            session: self.session,
            block,
        }))
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        for &at in &self.tickets {
            // An error means that the session is corrupt or left; there is nobody to tell.
            let _ = self.session.free_block(at);
        }
    }
}

/// A block that is ready to be sent. Dropped unsent, it is given back with all that it stands for.
#[derive(Debug)]
pub struct Parcel {
    session: &'static Session,
    block: u64,
}

impl Parcel {
    /// The block, still the parcel's.
    pub fn block(&self) -> u64 {
        self.block
    }

    /// The block has been handed over.
    pub fn sent(self) {
        std::mem::forget(self);
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        let _ = self.session.free_block(self.block);
    }
}

/// The tickets of a message that was received. Dropped, it gives the block back; what was redeemed stays held.
#[derive(Debug)]
pub struct Incoming {
    session: &'static Session,
    block: Option<u64>,
    tickets: Vec<Part>,
}

impl Incoming {
    /// Opens what came with a message.
    pub fn open(session: &'static Session, block: Option<u64>) -> Result<Self, ShmError> {
        let mut incoming = Self {
            session,
            block,
            tickets: Vec::new(),
        };
        if let Some(at) = block {
            incoming.tickets = bundle::parts(session, at)?;
        }
        Ok(incoming)
    }

    /// A handle to the object behind ticket `number`.
    pub fn redeem(&self, number: u32) -> Result<Handle, ShmError> {
        let ticket = self.tickets.get(number as usize).ok_or(ShmError::Gone)?;
        let word: &'static AtomicU64 = self.session.segment().at(ticket.at)?;
        let word = word.load(Ordering::Relaxed);
        self.session.hold(word as u32, (word >> 32) as u32)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(block) = self.block {
            let _ = self.session.free_block(block);
        }
    }
}
