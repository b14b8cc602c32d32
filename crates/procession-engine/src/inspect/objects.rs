//! The objects of a snapshot: what they are, who waits for them, who has them.

use std::sync::atomic::Ordering;

use procession_shm::ShmError;
use procession_shm::objects::Entry;
use procession_shm::processes::{Owner, State};
use procession_shm::sync::SEMAPHORE;

use super::report::{Member, ObjectName, ObjectReport};
use super::snapshot::{Objects, Options, Reader};

/// Semaphores whose holders are looked up: each costs a question to every process's records.
const SEMAPHORES: u32 = 16;
/// Holders of an object that are told by name.
const HOLDERS: usize = 8;

impl Reader {
    pub(super) fn object_name(&self, index: u32) -> ObjectName {
        let entry = self.session.entry(index).ok().filter(|_| {
            u64::from(index) < self.session.header().object_high.load(Ordering::Acquire)
        });
        let kind = entry.and_then(Entry::kind);
        ObjectName {
            index,
            name: entry
                .filter(|_| kind.is_some())
                .map(Entry::name)
                .unwrap_or_default(),
            kind: kind.map(|k| self.kind_name(k)),
        }
    }

    fn kind_name(&self, kind: u8) -> String {
        self.session
            .kind(kind)
            .map_or_else(|_| format!("kind {kind}"), |k| k.name.to_owned())
    }

    /// What the kind tells of its object. The label `owner` marks a word that names a process.
    fn counters(&self, kind: u8, entry: &'static Entry) -> Vec<(&'static str, u64)> {
        self.session
            .kind(kind)
            .map(|k| (k.describe)(self.session, entry))
            .unwrap_or_default()
    }

    /// Who has the object that somebody waits for.
    pub(super) fn owners_of(&mut self, index: u32) -> Vec<Member> {
        if let Some(known) = self.owners.get(&index) {
            return known.clone();
        }
        let mut owners = Vec::new();
        if let Ok(entry) = self.session.entry(index)
            && let Some(kind) = entry.kind()
        {
            owners = self.named_owner(&self.counters(kind, entry));
            if kind == SEMAPHORE && self.semaphores < SEMAPHORES {
                self.semaphores += 1;
                owners = self.with_units(index);
            }
        }
        self.owners.insert(index, owners.clone());
        owners
    }

    fn named_owner(&self, counters: &[(&'static str, u64)]) -> Vec<Member> {
        counters
            .iter()
            .filter(|(label, _)| *label == "owner")
            .filter_map(|(_, word)| Owner::from_word(u32::try_from(*word).ok()?))
            .map(|owner| self.member(owner))
            .collect()
    }

    fn with_units(&self, index: u32) -> Vec<Member> {
        let mut owners = Vec::new();
        for owner in self.present() {
            let mut units = 0;
            // An error means that there is no such record, so nothing in it.
            let _ = self
                .session
                .view_holds(owner.slot(), index..index + 1, |h| units = h.units);
            if units > 0 {
                owners.push(self.member(owner));
            }
        }
        owners
    }

    /// Members whose holds count.
    fn present(&self) -> impl Iterator<Item = Owner> {
        let session = self.session;
        session
            .slots()
            .filter(|(_, slot)| !matches!(slot.state(), State::Free | State::Gone))
            .filter_map(|(number, _)| session.owner_in(number))
    }

    pub(super) fn objects(&mut self, options: &Options) -> (Vec<ObjectReport>, bool) {
        let mut found = Vec::new();
        let mut looked_at = 0;
        for (index, entry) in self.session.entries() {
            if entry.kind().is_none() {
                continue;
            }
            looked_at += 1;
            if looked_at > options.max_objects {
                return (found, true);
            }
            // One that goes while it is looked at is as good as gone.
            if let Some(object) = self.object(index, entry)
                && (object.is_busy() || options.objects != Objects::Busy)
            {
                found.push(object);
            }
        }
        (found, false)
    }

    fn object(&mut self, index: u32, entry: &'static Entry) -> Option<ObjectReport> {
        let generation = entry.generation();
        let kind = entry.kind()?;
        let mut counters = self.counters(kind, entry);
        let waiters = self.waiters.get(&index).copied().unwrap_or(0);
        let owners = if waiters > 0 {
            self.owners_of(index)
        } else {
            self.named_owner(&counters)
        };
        counters.retain(|(label, _)| *label != "owner");
        let creator = entry.creator.load(Ordering::Relaxed);
        let object = ObjectReport {
            index,
            generation,
            kind: self.kind_name(kind),
            name: entry.name(),
            creator: u32::try_from(creator)
                .ok()
                .and_then(Owner::from_word)
                .map(|o| self.member(o)),
            age_ns: self.age(entry.created_ns.load(Ordering::Relaxed)),
            references: entry.refs.load(Ordering::Relaxed),
            holder_count: None,
            holders: Vec::new(),
            waiters,
            owners,
            counters,
        };
        (entry.generation() == generation && entry.kind() == Some(kind)).then_some(object)
    }

    pub(super) fn find_holders(&self, objects: &mut [ObjectReport]) -> Result<(), ShmError> {
        let Some(end) = objects.last().map(|o| o.index + 1) else {
            return Ok(());
        };
        for object in &mut *objects {
            object.holder_count = Some(0);
        }
        for owner in self.present() {
            let member = self.member(owner);
            let mut at = 0;
            self.session.view_holds(owner.slot(), 0..end, |hold| {
                // Both run in the order of the objects' numbers.
                while at < objects.len() && objects[at].index < hold.object {
                    at += 1;
                }
                let Some(object) = objects.get_mut(at) else {
                    return;
                };
                if hold.held && object.index == hold.object {
                    object.holder_count = object.holder_count.map(|n| n + 1);
                    if object.holders.len() < HOLDERS {
                        object.holders.push(member.clone());
                    }
                }
            })?;
        }
        Ok(())
    }
}
