//! How values become bytes.
//!
//! [`Postcard`] is what everything uses unless another [`Codec`] is named: in the type of a queue or pipe
//! (`Queue<T, MyCodec>`), or at a task (`#[procession::task(codec = MyCodec)]`). A codec works for everything that `serde`
//! can serialize, and never sees the shared objects in a value: those travel beside the bytes.
//!
//! ```
//! use procession::codec::{Codec, CodecError};
//! use procession::{Queue, queue::Options};
//! use serde::{Serialize, de::DeserializeOwned};
//!
//! /// Text that a human can read on the way.
//! #[derive(Debug)]
//! struct Json;
//!
//! impl Codec for Json {
//!     fn encode<T: Serialize + ?Sized>(value: &T, to: &mut Vec<u8>) -> Result<(), CodecError> {
//!         serde_json::to_writer(to, value).map_err(CodecError::new)
//!     }
//!     fn decode<T: DeserializeOwned>(from: &[u8]) -> Result<T, CodecError> {
//!         serde_json::from_slice(from).map_err(CodecError::new)
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let queue: Queue<Vec<String>, Json> = Queue::with(Options::default())?;
//! queue.put(vec!["a".to_owned()])?;
//! assert_eq!(queue.get()?, ["a"]);
//! # Ok(())
//! # }
//! ```

use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Puts values into bytes and takes them out again.
pub trait Codec: 'static {
    /// Appends the value to `to`.
    fn encode<T: Serialize + ?Sized>(value: &T, to: &mut Vec<u8>) -> Result<(), CodecError>;
    /// The value that `from` stands for, all of it.
    fn decode<T: DeserializeOwned>(from: &[u8]) -> Result<T, CodecError>;
}

/// Why a codec could not do its work; its own error is the source.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CodecError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl CodecError {
    /// With the codec's own error, or a text.
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

/// The compact binary format of the crate `postcard`.
#[derive(Debug, Clone, Copy)]
pub struct Postcard;

impl Codec for Postcard {
    #[inline]
    fn encode<T: Serialize + ?Sized>(value: &T, to: &mut Vec<u8>) -> Result<(), CodecError> {
        postcard::serialize_with_flavor(value, Appended(to)).map_err(CodecError::new)
    }

    #[inline]
    fn decode<T: DeserializeOwned>(from: &[u8]) -> Result<T, CodecError> {
        let (value, rest) = postcard::take_from_bytes(from).map_err(CodecError::new)?;
        if rest.is_empty() {
            return Ok(value);
        }
        Err(CodecError::new(format!(
            "{} bytes are left over",
            rest.len()
        )))
    }
}

/// The end of a vector that is used again and again.
struct Appended<'a>(&'a mut Vec<u8>);

impl Flavor for Appended<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_and_what_is_left_over_is_an_error() {
        let mut bytes = Vec::new();
        Postcard::encode(&(7_u64, "seven"), &mut bytes).unwrap();
        assert_eq!(
            Postcard::decode::<(u64, String)>(&bytes).unwrap(),
            (7, "seven".into())
        );
        let error = Postcard::decode::<u64>(&bytes).unwrap_err();
        assert_eq!(error.to_string(), "6 bytes are left over");
    }
}
