//! Values and keys of all forms for the map and the list.

use procession_shm::Session;
use procession_shm::objects::Handle;
use procession_shm::ring::Message;
use procession_shm::store::{Content, Key, List, Map, PIN, Seen, Stored};
use procession_shm::sync::Lock;

use super::content;

/// A value of these: its bytes depend on the number, its form on the length, and some have a ticket with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    pub tag: u64,
    pub len: usize,
    pub ticket: bool,
}

impl Value {
    /// One of every form.
    pub fn numbered(tag: u64) -> Self {
        let lens = [3, 9, 10, 200, 9, 3000, PIN + 1, 64];
        let len = lens[(tag % 8) as usize];
        let ticket = tag % 5 == 4;
        Self { tag, len, ticket }
    }
}

/// Makes it.
pub fn stored(session: &'static Session, value: Value, lock: &Lock) -> Stored {
    let bytes = content(value.tag, value.len);
    let (head, tail) = bytes.split_at(value.len / 3);
    let block = value
        .ticket
        .then(|| session.make_ticket(lock.handle()).unwrap());
    let message = Message {
        bytes: head,
        tail,
        block,
    };
    Stored::make(session, message).unwrap()
}

/// What a reader sees.
pub type Got = (Vec<u8>, Vec<u32>);

/// A reader.
#[allow(clippy::needless_pass_by_value)] // the type of a reader
pub fn got(content: Content<'_>, handles: Vec<Handle>) -> Got {
    let bytes = match content {
        Content::Bytes(bytes) => bytes.to_vec(),
        Content::Pinned(memory) => {
            let session = memory.handle().session();
            let bytes = session.segment().bytes(memory.offset(), memory.len());
            // An error where somebody has written nonsense: then there are none.
            bytes.unwrap_or_default().to_vec()
        }
    };
    (bytes, handles.iter().map(Handle::index).collect())
}

/// What a reader sees of a value.
pub fn expected(value: Value, lock: &Lock) -> Got {
    let handles = value.ticket.then(|| lock.handle().index());
    (content(value.tag, value.len), handles.into_iter().collect())
}

/// Keys of all forms: inline and in blocks, their own identity and not; shown are those that end on 3.
pub fn key_bytes(key: u8) -> (Vec<u8>, Vec<u8>) {
    let identity = content(u64::from(key), 1 + usize::from(key) * 2);
    let shown = if key % 10 == 3 {
        vec![key; 5]
    } else {
        identity.clone()
    };
    (identity, shown)
}

/// Does something with a key.
pub fn with_key<T>(key: u8, f: impl FnOnce(&Key<'_>) -> T) -> T {
    let (identity, shown) = key_bytes(key);
    if shown == identity {
        f(&Key::plain(&identity))
    } else {
        f(&Key::shown(&identity, Message::new(&shown)))
    }
}

/// All that a map shows, keys and values in turn.
pub fn all_of_map(map: &Map) -> Vec<Got> {
    let mut seen = Vec::new();
    map.snapshot(0, true, &mut |_: Seen, c, h| seen.push(got(c, h)))
        .unwrap();
    seen
}

/// All that a list shows.
pub fn all_of_list(list: &List) -> Vec<Got> {
    let mut seen = Vec::new();
    list.snapshot(&mut |c, h| seen.push(got(c, h))).unwrap();
    seen
}

/// What a map shows that has these keys and values.
pub fn expected_map(model: &[(u8, Value)], lock: &Lock) -> Vec<Got> {
    let pair = |(k, v): &(u8, Value)| [(key_bytes(*k).1, Vec::new()), expected(*v, lock)];
    model.iter().flat_map(pair).collect()
}

/// What a list shows that has these values.
pub fn expected_list(model: &[Value], lock: &Lock) -> Vec<Got> {
    model.iter().map(|v| expected(*v, lock)).collect()
}
