//! The tasks of this program: what they are called, and how they are run from bytes.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::OnceLock;

use procession_engine::home;
use procession_engine::launch::Arrival;
use procession_engine::transit::{Incoming, Parcel};
use procession_sys::collect::TASKS;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{Codec, CodecError};
use crate::error::{MessageError, SpawnError};
use crate::transit;

/// A value that can go to another process: `serde` can serialize and deserialize it, and it borrows nothing.
pub trait Sendable: Serialize + DeserializeOwned + 'static {}

impl<T: Serialize + DeserializeOwned + 'static> Sendable for T {}

/// A function that can be run in another process, once it is marked `#[procession::task]`.
///
/// It is implemented for the functions themselves; there is nothing to implement by hand. `Shape` only tells functions of
/// different numbers of arguments apart. What a caller gives for the arguments ([`Task::Args`]) is the argument itself of a
/// function that has one, a tuple for one that has several, and `()` for one that has none.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a task",
    note = "a task is a function marked #[procession::task], with at most eight arguments; they and its result are owned \
            values that serde can serialize and deserialize"
)]
pub trait Task<Shape>: Copy + 'static {
    /// What it is called with.
    type Args: Sendable;
    /// What it gives back.
    type Output: Sendable;
    /// Calls it here.
    fn call(self, args: Self::Args) -> Self::Output;
}

impl<F, R> Task<fn() -> R> for F
where
    F: Fn() -> R + Copy + 'static,
    R: Sendable,
{
    type Args = ();
    type Output = R;
    fn call(self, (): ()) -> R {
        self()
    }
}

impl<F, A, R> Task<fn(A) -> R> for F
where
    F: Fn(A) -> R + Copy + 'static,
    A: Sendable,
    R: Sendable,
{
    type Args = A;
    type Output = R;
    fn call(self, argument: A) -> R {
        self(argument)
    }
}

macro_rules! tasks_of_several_arguments {
    ($($name:ident)+) => {
        impl<F, $($name,)+ R> Task<fn($($name),+) -> R> for F
        where
            F: Fn($($name),+) -> R + Copy + 'static,
            ($($name,)+): Sendable,
            R: Sendable,
        {
            type Args = ($($name,)+);
            type Output = R;
            #[allow(non_snake_case)]
            fn call(self, ($($name,)+): ($($name,)+)) -> R {
                self($($name),+)
            }
        }
    };
}

tasks_of_several_arguments!(A B);
tasks_of_several_arguments!(A B C);
tasks_of_several_arguments!(A B C D);
tasks_of_several_arguments!(A B C D E);
tasks_of_several_arguments!(A B C D E G);
tasks_of_several_arguments!(A B C D E G H);
tasks_of_several_arguments!(A B C D E G H I);

type Encode = fn(&dyn Any, &mut Vec<u8>) -> Result<(), CodecError>;
type Decode = fn(&[u8], &mut dyn Any) -> Result<(), CodecError>;
type Work = fn(Input<'_>, &mut Vec<u8>) -> Result<Attached, MessageError>;
type Run = fn(Input<'_>) -> Result<i32, MessageError>;

/// The arguments of a task, as they came.
#[derive(Debug)]
pub struct Input<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) attached: Incoming,
}

/// The shared objects in a result.
pub type Attached = Option<Parcel>;

/// One task, as its attribute describes it. The types are known to the functions in it.
#[derive(Debug)]
pub struct Entry {
    function: fn() -> TypeId,
    encode: Encode,
    decode: Decode,
    work: Work,
    run: Run,
}

impl Entry {
    /// `work` runs the task for its result, `run` for its exit code.
    pub const fn new<C: Codec, Shape, F: Task<Shape>>(_: F, work: Work, run: Run) -> Self {
        Self {
            function: TypeId::of::<F>,
            encode: encode_any::<C, F::Args>,
            decode: decode_any::<C, F::Output>,
            work,
            run,
        }
    }
}

/// The function that a type stands for has one type of arguments, so this cannot be another.
const FOREIGN: &str = "the value is not of the task's type";

fn encode_any<C: Codec, A: Sendable>(args: &dyn Any, to: &mut Vec<u8>) -> Result<(), CodecError> {
    let args: &A = args
        .downcast_ref()
        .ok_or_else(|| CodecError::new(FOREIGN))?;
    C::encode(args, to)
}

fn decode_any<C: Codec, R: Sendable>(from: &[u8], result: &mut dyn Any) -> Result<(), CodecError> {
    let result: &mut Option<R> = result
        .downcast_mut()
        .ok_or_else(|| CodecError::new(FOREIGN))?;
    *result = Some(C::decode(from)?);
    Ok(())
}

/// A task that is in this program, with its name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub(crate) name: &'static str,
    entry: &'static Entry,
}

impl Known {
    pub(crate) fn encode<A: Sendable>(self, args: &A, to: &mut Vec<u8>) -> Result<(), CodecError> {
        (self.entry.encode)(args, to)
    }

    pub(crate) fn decode<R: Sendable>(self, from: &[u8]) -> Result<R, CodecError> {
        let mut result: Option<R> = None;
        (self.entry.decode)(from, &mut result)?;
        result.ok_or_else(|| CodecError::new(FOREIGN))
    }

    pub(crate) fn work(
        self,
        input: Input<'_>,
        output: &mut Vec<u8>,
    ) -> Result<Attached, MessageError> {
        (self.entry.work)(input, output)
    }

    pub(crate) fn run(self, input: Input<'_>) -> Result<i32, MessageError> {
        (self.entry.run)(input)
    }

    /// The function's own name, without its modules.
    pub(crate) fn short_name(self) -> &'static str {
        self.name
            .rsplit_once("::")
            .map_or(self.name, |(_, name)| name)
    }
}

struct Registry {
    by_type: HashMap<TypeId, Known>,
    by_name: HashMap<&'static str, Known>,
    ambiguous: Option<&'static str>,
}

fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        let mut registry = Registry {
            by_type: HashMap::new(),
            by_name: HashMap::new(),
            ambiguous: None,
        };
        for collected in TASKS {
            let Some(entry) = collected.value.downcast_ref::<Entry>() else {
                continue;
            };
            let name = collected.name;
            let known = Known { name, entry };
            registry.by_type.insert((entry.function)(), known);
            if registry.by_name.insert(name, known).is_some() {
                registry.ambiguous = Some(name);
            }
        }
        registry
    })
}

/// The task that a function is.
pub(crate) fn lookup<Shape, F: Task<Shape>>(_: F) -> Result<Known, SpawnError> {
    let registry = registry();
    if let Some(name) = registry.ambiguous {
        return Err(SpawnError::Ambiguous(name));
    }
    registry
        .by_type
        .get(&TypeId::of::<F>())
        .copied()
        .ok_or(SpawnError::NotATask(std::any::type_name::<F>()))
}

/// The task of this name.
pub(crate) fn named(name: &str) -> Option<Known> {
    registry().by_name.get(name).copied()
}

/// The names of all tasks, in order.
pub(crate) fn names() -> Vec<&'static str> {
    let mut names: Vec<_> = registry().by_name.keys().copied().collect();
    names.sort_unstable();
    names
}

/// Runs a task for its result, which is put into `output`.
pub fn work<C: Codec, Shape, F: Task<Shape>>(
    task: F,
    input: Input<'_>,
    output: &mut Vec<u8>,
) -> Result<Attached, MessageError> {
    let (args, attached) = transit::decode(input.attached, || C::decode(input.bytes))?;
    drop(attached);
    let result = task.call(args);
    transit::encode(output, |to| C::encode(&result, to))
}

/// Runs a task as the errand of a process, which from then on holds what it was given and nothing else.
pub fn run<C: Codec, Shape, F: Task<Shape>>(
    task: F,
    input: Input<'_>,
) -> Result<F::Output, MessageError> {
    let (args, attached) = transit::decode(input.attached, || C::decode(input.bytes))?;
    drop(attached);
    Arrival::settled(home::session()?)?;
    Ok(task.call(args))
}

/// Compiles for what can be sent, and says what cannot.
pub fn assert_sendable<T: Sendable>() {}

/// What a task returned, on the way to an exit code.
#[derive(Debug)]
pub struct Returned<'a, T>(pub &'a T);

/// A task that returns an error ends its process as `main` does.
pub trait ExitOfResult {
    /// 1 for an error, which is reported.
    fn exit_code(&self) -> i32;
}

impl<T, E: std::fmt::Debug> ExitOfResult for Returned<'_, Result<T, E>> {
    fn exit_code(&self) -> i32 {
        match self.0 {
            Ok(_) => 0,
            Err(error) => {
                eprintln!("Error: {error:?}");
                1
            }
        }
    }
}

/// What a task returns otherwise says nothing about success.
pub trait ExitOfAny {
    /// 0.
    fn exit_code(&self) -> i32;
}

impl<T> ExitOfAny for &Returned<'_, T> {
    fn exit_code(&self) -> i32 {
        0
    }
}
