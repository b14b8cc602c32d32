//! The named steps of a pool and of starting its workers: where a process dies in the tests, and at which pass.

type Steps = &'static [(&'static str, u32)];

/// What a worker does at least in the job that each of them has a part in.
pub(crate) const WORKING: Steps = &[
    ("board.join.filled", 1),
    ("board.join.committed", 1),
    ("board.claim.filled", 3),
    ("board.claim.committed", 3),
    ("board.start.named", 5),
    ("board.start.started", 5),
    ("board.arguments.taking", 2),
    ("board.arguments.owned", 2),
    ("board.arguments.taken", 2),
    ("board.payload.copied", 1),
    ("board.finish.written", 5),
    ("board.finish.named", 2),
    ("board.finish.handing", 2),
    ("board.finish.handed", 2),
    ("board.finish.committed", 5),
    ("board.bits.set", 3),
    ("board.flush.counted", 3),
    ("board.slab.allocated", 1),
    ("board.slab.linked", 1),
    ("guard.set.logged", 9),
    ("guard.set.stored", 9),
    ("guard.set.stored", 17),
    ("guard.checkpoint", 4),
    ("bundle.made", 1),
    ("bundle.listed", 1),
    ("bundle.bound", 1),
    ("bundle.unbound", 1),
    ("arena.alloc.done", 2),
    ("arena.free.done", 2),
];

/// What a worker does that keeps notes.
pub(crate) const NOTING: Steps = &[
    ("board.start.started", 4),
    ("board.notes.opened", 1),
    ("board.notes.opened", 4),
    ("board.notes.begun", 1),
    ("board.notes.begun", 11),
    ("board.notes.written", 1),
    ("board.notes.written", 12),
    ("board.notes.told", 1),
    ("board.notes.told", 12),
    ("board.notes.closed", 3),
    ("board.finish.written", 3),
    ("board.finish.named", 3),
    ("board.finish.handing", 3),
    ("board.finish.handed", 3),
    ("board.finish.committed", 6),
];

/// What a worker does on its way to its pool.
pub(crate) const ARRIVING: Steps = &[
    ("process.enter.pid", 1),
    ("process.enter.alive", 1),
    ("process.enter.live", 1),
    ("launch.arrive.joined", 1),
    ("object.hold.set", 1),
    ("object.hold.committed", 1),
    ("ring.pop.taken", 1),
    ("ring.pop.committed", 1),
    ("launch.arrive.addressed", 1),
    ("object.drop.unheld", 1),
    ("object.drop.committed", 1),
];

/// What a worker does that has its limit of tasks behind it.
pub(crate) const LEAVING: Steps = &[("board.leave.filled", 1), ("board.leave.committed", 1)];

/// What a worker does that has no work, and then gets items one by one.
pub(crate) const LOOKING_OUT: Steps = &[
    ("board.lookout.begun", 1),
    ("board.lookout.ended", 1),
    ("board.claim.taken_back", 3),
];

/// What a worker does while others are busy.
pub(crate) const WATCHING: Steps = &[("board.watch.kept", 1), ("board.watch.ended", 1)];

/// What a worker does that is condemned for an item it has finished.
pub(crate) const PUTTING_BACK: Steps = &[("board.start.reverting", 1), ("board.start.reverted", 1)];

/// What the parent does.
pub(crate) const OWNING: Steps = &[
    ("board.open.filled", 1),
    ("board.open.filled", 2),
    ("board.open.listed", 1),
    ("board.open.listed", 2),
    ("board.chunk.listed", 1),
    ("board.chunk.listed", 2),
    ("board.payload.copied", 1),
    ("board.payload.copied", 3),
    ("board.feed.handed", 1),
    ("board.feed.handed", 4),
    ("board.feed.filled", 1),
    ("board.feed.filled", 40),
    ("board.feed.published", 1),
    ("board.feed.published", 40),
    ("board.feed.ready", 1),
    ("board.feed.ready", 40),
    ("board.cancel.decided", 1),
    ("board.condemn.told", 1),
    ("board.condemn.certain", 1),
    ("board.bury.filled", 1),
    ("board.bury.filled", 3),
    ("board.bury.committed", 1),
    ("board.bury.committed", 3),
    ("board.departed.told", 1),
    ("board.departed.told", 3),
    ("board.retry.filled", 1),
    ("board.retry.committed", 1),
    ("board.fail.decided", 1),
    ("board.collect.owned", 1),
    ("board.collect.owned", 5),
    ("board.stop.emptied", 1),
    ("board.close.unlisted", 1),
    ("board.close.unlisted", 2),
    ("board.chunk.unlisted", 1),
    ("launch.start.addressed", 1),
    ("process.take.filled", 1),
    ("process.reserve.taken", 1),
    ("process.reserve.held", 1),
    ("launch.start.spawned", 1),
    ("launch.start.spawned", 2),
    ("launch.start.told", 1),
];

/// All of them.
pub(crate) const ALL: &[Steps] = &[
    WORKING,
    NOTING,
    ARRIVING,
    LEAVING,
    LOOKING_OUT,
    WATCHING,
    PUTTING_BACK,
    OWNING,
];
