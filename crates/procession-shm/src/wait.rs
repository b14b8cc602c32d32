//! How anybody waits: spin a little, then sleep in slices, always with a deadline, a liveness check and a way out.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::sync::OnceLock;
use std::time::Duration;

use procession_sys::clock::{Deadline, now_ns};
use procession_sys::futex;
use procession_sys::process::times_preempted;

use crate::crash_point;
use crate::error::WaitError;
use crate::gate::{Gate, Lookout, Wake};
use crate::primitive::{AtomicU32, Ordering};
use crate::segment::Shared;
use crate::session::Session;

/// The caller's own check, run between slices and after every signal. `false` ends the wait with `Interrupted`.
pub type Check<'a> = &'a mut dyn FnMut() -> bool;

/// One wait in progress: until when, and what is checked meanwhile.
pub struct Wait<'a> {
    session: &'static Session,
    deadline: Deadline,
    check: Option<Check<'a>>,
    slice: Duration,
    /// The longest of them.
    longest: Duration,
    /// Where to say that this thread looks out for what it waits for.
    lookout: Option<&'a Lookout>,
    /// Where to say who sleeps, and by which number.
    last: Option<(&'a LastSleeper, u32)>,
    /// May it look again and again before it sleeps?
    spins: bool,
    /// What is shown to those who look from outside: the object waited for, and why.
    shown: (u32, WaitKind),
}

/// What a process waits for, as tools show it.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitKind {
    /// A lock that another one holds.
    Acquire = 1,
    /// Something to take out of a queue or pipe.
    Get = 2,
    /// Room in a queue or pipe.
    Put = 3,
    /// A notification of a condition, event or barrier.
    Signal = 4,
    /// All tasks of a queue to be done.
    Join = 5,
    /// A task to work on.
    Task = 6,
    /// Results of a pool.
    Result = 7,
    /// A process to end.
    Exit = 8,
}

impl WaitKind {
    /// From the word in a process's slot.
    pub fn from_word(word: u32) -> Option<Self> {
        [
            Self::Acquire,
            Self::Get,
            Self::Put,
            Self::Signal,
            Self::Join,
            Self::Task,
            Self::Result,
            Self::Exit,
        ]
        .into_iter()
        .find(|k| *k as u32 == word)
    }

    /// A short verb phrase.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acquire => "acquire",
            Self::Get => "get",
            Self::Put => "put",
            Self::Signal => "wait",
            Self::Join => "join",
            Self::Task => "idle",
            Self::Result => "results",
            Self::Exit => "exit",
        }
    }
}

/// The first sleep; doubled up to [`LONGEST`] while nothing happens, so that an idle process costs next to nothing.
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_millis(400);
/// Of a pool's worker without work. There may be many, and what they wait for is announced again by whoever buries a dead waker.
const LONGEST_IDLE: Duration = Duration::from_millis(900);

impl<'a> Wait<'a> {
    /// A wait for `object` (its index in the session) until `deadline`.
    pub fn new(session: &'static Session, object: u32, kind: WaitKind, deadline: Deadline) -> Self {
        Self {
            session,
            deadline,
            check: None,
            slice: FIRST,
            longest: if kind == WaitKind::Task {
                LONGEST_IDLE
            } else {
                LONGEST
            },
            lookout: None,
            last: None,
            spins: true,
            shown: (object, kind),
        }
    }

    /// While it spins the wait keeps this lookout.
    #[must_use]
    pub fn looking_out(mut self, at: &'a Lookout) -> Self {
        self.lookout = Some(at);
        self
    }

    /// Sleeps under a number, so that [`LastSleeper::notify_one`] finds it.
    #[must_use]
    pub fn numbered(mut self, last: &'a LastSleeper, number: u32) -> Self {
        self.last = Some((last, number));
        self
    }

    /// It sleeps at once: what it waits for will not come soon.
    #[must_use]
    pub fn without_spinning(mut self) -> Self {
        self.spins = false;
        self
    }

    /// With the caller's own check.
    #[must_use]
    pub fn checked(mut self, check: Check<'a>) -> Self {
        self.check = Some(check);
        self
    }

    /// True for a wait that may not sleep at all.
    pub fn is_poll(&self) -> bool {
        self.deadline.is_now()
    }

    /// Waits at `gate` until `ready` gives a value.
    pub fn until<T>(
        &mut self,
        gate: &Gate,
        mut ready: impl FnMut() -> Result<Option<T>, WaitError>,
    ) -> Result<T, WaitError> {
        self.attempt(gate, |_| ready())
    }

    /// As [`Wait::until`], for attempts that may have to wait for a guard meanwhile ([`crate::guard::Guard::lock_within`]).
    pub fn attempt<T>(
        &mut self,
        gate: &Gate,
        mut ready: impl FnMut(&mut Self) -> Result<Option<T>, WaitError>,
    ) -> Result<T, WaitError> {
        if let Some(value) = ready(self)? {
            return Ok(value);
        }
        if self.deadline.is_now() {
            return Err(WaitError::TimedOut);
        }
        let lookout = self.lookout;
        let begin = now_ns();
        if self.spins
            && let Some(value) = spin(begin, lookout, &mut || ready(self))?
        {
            return Ok(value);
        }
        let _shown = self.session.show_wait(self.shown.0, self.shown.1);
        loop {
            let seq = gate.prepare();
            if let Some(value) = ready(self)? {
                return Ok(value);
            }
            let slice = self.deadline.slice(self.slice);
            let slept = match self.last {
                Some((last, number)) => last.sleep(gate, seq, slice, number),
                None => futex::wait(gate.word(), seq, slice),
            };
            if let Some(value) = ready(self)? {
                learn(now_ns().saturating_sub(begin));
                return Ok(value);
            }
            match slept {
                futex::Woken::Woken | futex::Woken::Changed => {}
                futex::Woken::TimedOut | futex::Woken::Interrupted => {
                    self.tick(slept == futex::Woken::TimedOut)?;
                }
            }
        }
    }

    /// Between two attempts to get a guard whose holder takes its time.
    pub(crate) fn tick_patiently(&mut self) -> Result<(), WaitError> {
        self.tick(true)
    }

    fn tick(&mut self, quiet: bool) -> Result<(), WaitError> {
        if let Some(check) = self.check.as_mut()
            && !check()
        {
            return Err(WaitError::Interrupted);
        }
        if self.deadline.passed() {
            return Err(WaitError::TimedOut);
        }
        // Also where signals come so often that no slice ever ends.
        self.session.sweep()?;
        if quiet {
            self.slice = (self.slice * 2).min(self.longest);
        }
        Ok(())
    }
}

/// Wakes those who sleep at `gate` (see [`Gate::notify`]).
#[inline]
pub fn notify(gate: &Gate, wake: Wake) {
    gate.notify(wake, futex::wake);
}

/// The same after a `SeqCst` operation (see [`Gate::notify_ordered`]).
#[inline]
pub fn notify_ordered(gate: &Gate, wake: Wake) {
    gate.notify_ordered(wake, futex::wake);
}

/// Who of the first few fell asleep last at a gate. It is the first to be woken: what it works with is still in the
/// processor's caches, while the kernel would wake the one who has slept longest. Only a hint; zero is a valid start.
#[repr(C)]
#[derive(Debug)]
pub struct LastSleeper {
    name: AtomicU32,
    pad: AtomicU32,
}

// SAFETY: repr(C), two atomics.
unsafe impl Shared for LastSleeper {}

impl LastSleeper {
    /// The kernel knows 32 names, and this one is for all who would have to share another: a sleeper that has its name in common
    /// with the last one might be woken instead, and the two would take turns for ever.
    const OTHERS: NonZeroU32 = NonZeroU32::new(1 << 31).unwrap();

    fn sleep(&self, gate: &Gate, seq: u32, slice: Duration, number: u32) -> futex::Woken {
        let own = 1_u32.checked_shl(number).and_then(NonZeroU32::new);
        let name = own.unwrap_or(Self::OTHERS);
        if name != Self::OTHERS {
            self.name.store(name.get(), Ordering::Relaxed);
        }
        futex::wait_named(gate.word(), seq, slice, name)
    }

    /// Wakes one of those who sleep at `gate` (see [`Gate::notify`]).
    pub fn notify_one(&self, gate: &Gate) {
        gate.notify(Wake::One, |word, count| {
            if count == 1
                && let Some(name) = NonZeroU32::new(self.name.load(Ordering::Relaxed))
            {
                let woken = futex::wake_named(word, name);
                if woken > 0 {
                    return woken;
                }
                self.name.store(0, Ordering::Relaxed);
            }
            futex::wake(word, count)
        });
    }
}

const PAUSES: u32 = 128;
/// A little longer than a wake-up across two processors usually takes. A shorter spin would never meet a peer that has to be
/// woken, and two peers that both sleep would go on waking each other for ever, where both could spin.
const SPIN_NS: u64 = 60_000;
/// Where wake-ups take longer, as on a virtual machine whose host is busy, a thread spins so long at most.
const LONGEST_SPIN_NS: u64 = 250_000;

/// Who gives the processor away and gets it back only so much later shares it with others that have work to do.
const CROWDED_NS: u64 = 250_000;
/// How many waits then go without spinning: at first, and at most if it is so again and again.
const CROWDED_WAITS: std::ops::Range<u32> = 64..2_048;

thread_local! {
    /// How often in a row spinning was in vain; saturates. Spinning pauses while it is high.
    static VAIN: Cell<u32> = const { Cell::new(0) };
    /// How long to spin.
    static SPIN: Cell<u64> = const { Cell::new(SPIN_NS) };
    /// Waits to come that do not spin, as there are more threads to run than processors.
    static CROWDED: Cell<u32> = const { Cell::new(0) };
    /// How many those were the last time.
    static CROWDED_LAST: Cell<u32> = const { Cell::new(0) };
}

/// Looks again and again for about as long as a wake-up across two processors takes. The second part
/// gives the processor away at each turn: the one we wait for may need just this one. A thread that has spun in vain some
/// times in a row does it only every 16th time, until it helps again.
///
/// `lookout` is kept meanwhile; if somebody else keeps it there is no need to spin.
///
/// Where other programs keep all processors busy, giving one away costs a whole time slice of theirs, while a sleeper that is
/// woken gets it at once: there a thread stops spinning, for longer each time that it finds this to be so.
fn spin<T>(
    begin: u64,
    lookout: Option<&Lookout>,
    ready: &mut impl FnMut() -> Result<Option<T>, WaitError>,
) -> Result<Option<T>, WaitError> {
    if !may_spin() {
        return Ok(None);
    }
    let crowded = CROWDED.get();
    if crowded > 0 {
        CROWDED.set(crowded - 1);
        return Ok(None);
    }
    let vain = VAIN.get();
    if vain >= 4 && !vain.is_multiple_of(16) {
        VAIN.set(vain.wrapping_add(1).max(4));
        return Ok(None);
    }
    let pauses = if single_cpu() { 0 } else { PAUSES };
    let until = begin + SPIN.get();
    let _kept = match lookout {
        // One who looks is enough, and the others would only take its processor.
        Some(lookout) if !lookout.begin(begin, until) => return Ok(None),
        Some(lookout) => {
            crash_point!("board.lookout.begun");
            Some(Kept(lookout, until))
        }
        None => None,
    };
    let mut before = begin;
    let mut preempted = 0;
    for turn in 0.. {
        if turn < pauses {
            std::hint::spin_loop();
            if turn % 4 != 0 {
                continue;
            }
        } else {
            if turn == pauses {
                preempted = times_preempted();
            }
            std::thread::yield_now();
            let now = now_ns();
            // The host of a virtual machine may also have taken the processor, which says nothing of other programs here.
            if now.saturating_sub(before) > CROWDED_NS && times_preempted() != preempted {
                let waits = CROWDED_LAST.get().saturating_mul(2);
                let waits = waits.clamp(CROWDED_WAITS.start, CROWDED_WAITS.end);
                CROWDED_LAST.set(waits);
                CROWDED.set(waits);
                return ready();
            }
            if now > until {
                break;
            }
            before = now;
        }
        if let Some(value) = ready()? {
            VAIN.set(0);
            CROWDED_LAST.set(CROWDED_LAST.get() / 2);
            return Ok(Some(value));
        }
    }
    VAIN.set(vain.wrapping_add(1));
    Ok(None)
}

/// What this thread slept for came so long after it began to wait. Had it spun only a little longer, it would not have slept, nor
/// had to be woken; where it would have been much longer, spinning is in vain.
fn learn(waited: u64) {
    SPIN.set(if waited < LONGEST_SPIN_NS {
        SPIN.get().max(waited + waited / 4).min(LONGEST_SPIN_NS)
    } else {
        SPIN_NS
    });
}

/// Ends a lookout however the spin ends.
struct Kept<'a>(&'a Lookout, u64);

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.0.end(self.1);
        crash_point!("board.lookout.ended");
    }
}

/// False where the environment variable `PROCESSION_SPIN` is `0`: then every wait sleeps at once. It is read once, and there to
/// show what spinning brings. Nobody needs it: a thread that spins in vain gives it up by itself.
pub fn may_spin() -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    *MAY.get_or_init(|| std::env::var_os("PROCESSION_SPIN").is_none_or(|value| value != "0"))
}

fn single_cpu() -> bool {
    static ONE: OnceLock<bool> = OnceLock::new();
    *ONE.get_or_init(|| procession_sys::limits::cpus() < 2)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::Instant;

    use super::*;

    /// One who sleeps at a gate again and again.
    #[derive(Default)]
    struct Sleeper {
        thread: AtomicU32,
        wakes: AtomicU32,
        over: AtomicBool,
    }

    impl Sleeper {
        fn run(&self, gate: &Gate, last: &LastSleeper, number: u32) {
            let thread = procession_sys::ident::thread_id();
            self.thread.store(thread, Ordering::SeqCst);
            while !self.over.load(Ordering::SeqCst) {
                let seq = gate.prepare();
                if last.sleep(gate, seq, Duration::from_secs(60), number) == futex::Woken::Woken {
                    self.wakes.fetch_add(1, Ordering::SeqCst);
                }
            }
        }

        /// Waits until it sleeps, having been woken so often.
        fn expect(&self, wakes: u32) {
            let begun = Instant::now();
            loop {
                let thread = self.thread.load(Ordering::SeqCst);
                let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat"));
                let asleep = stat.is_ok_and(|s| s.rsplit(") ").next().unwrap().starts_with('S'));
                if asleep && self.wakes.load(Ordering::SeqCst) == wakes {
                    return;
                }
                assert!(begun.elapsed() < Duration::from_secs(30), "not woken");
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn who_fell_asleep_last_is_woken_each_time_however_many_sleep() {
        let gate = Gate::new();
        let last = LastSleeper {
            name: AtomicU32::new(0),
            pad: AtomicU32::new(0),
        };
        // The first one has slept longer, and there is no name for it that the other could not have as well.
        let sleepers = [(35, Sleeper::default()), (3, Sleeper::default())];
        std::thread::scope(|scope| {
            for (number, sleeper) in &sleepers {
                scope.spawn(|| sleeper.run(&gate, &last, *number));
                sleeper.expect(0);
            }
            for round in 1..=3 {
                last.notify_one(&gate);
                sleepers[1].1.expect(round);
            }
            sleepers[0].1.expect(0);
            for (_, sleeper) in &sleepers {
                sleeper.over.store(true, Ordering::SeqCst);
            }
            notify(&gate, Wake::All);
        });
    }
}
