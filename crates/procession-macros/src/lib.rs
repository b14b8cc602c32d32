//! The attributes of the crate `procession`, which documents and re-exports them.

#![forbid(unsafe_code)]

mod entry;
mod task;

use proc_macro::TokenStream;

/// Makes a plain function known as a task, so that other processes can be asked to run it.
///
/// The function stays what it is and can be called as usual. Its arguments and its result travel to another process and
/// back, so they are owned values that `serde` can serialize and deserialize; queues, pipes, locks and the other shared
/// objects of this crate are such values too.
///
/// A task is found in the child by its name, `module::path::function`. Two tasks of one name in a program are an error when
/// the first process is started.
///
/// `#[task(codec = path::to::Codec)]` chooses how the arguments and the result are put into bytes.
#[proc_macro_attribute]
pub fn task(options: TokenStream, item: TokenStream) -> TokenStream {
    task::expand(options.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Goes on `main`: where this process was started to run a task, it does that; otherwise `main` runs as it is written.
///
/// When `main` returns, processes whose handles were dropped while they ran are waited for.
#[proc_macro_attribute]
pub fn main(options: TokenStream, item: TokenStream) -> TokenStream {
    entry::expand_main(&options.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Goes on a test function that starts processes, in the place of `#[test]`.
///
/// The test harness owns `main` of a test binary, so a child process comes in through the test itself: it is started with the
/// arguments that select this one test, and the attribute makes it run its task there.
#[proc_macro_attribute]
pub fn test(options: TokenStream, item: TokenStream) -> TokenStream {
    entry::expand_test(&options.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
