//! A list that the linker puts together: whoever is linked into a program can add to it, wherever it stands in the sources.
//!
//! There is no code that runs before `main`. What stands in a crate that the program never mentions is not linked, and so
//! is not in the list.

use std::any::Any;

pub use linkme;

/// One entry: a name, and something that only the one who reads the list knows the type of.
pub struct Collected {
    /// What it is called.
    pub name: &'static str,
    /// What it is.
    pub value: &'static (dyn Any + Send + Sync),
}

impl std::fmt::Debug for Collected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Collected").field(&self.name).finish()
    }
}

/// The tasks of this program.
#[linkme::distributed_slice]
pub static TASKS: [Collected];

#[cfg(test)]
mod tests {
    use super::{Collected, TASKS, linkme};

    #[linkme::distributed_slice(TASKS)]
    static ENTRY: Collected = Collected {
        name: "an entry",
        value: &7_u32,
    };

    #[test]
    fn what_is_linked_is_listed() {
        let entry = TASKS.iter().find(|entry| entry.name == "an entry").unwrap();
        assert_eq!(entry.value.downcast_ref(), Some(&7_u32));
    }
}
