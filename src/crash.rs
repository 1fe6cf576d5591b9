//! Crash points: named places where a process can be made to die, to show that any of them may be the last line it runs.
//!
//! Nothing of this is in a production build: without the feature `crash-points` each point is an empty function. With
//! it, `STEADFAST_CRASH=reply.before:3` aborts the process when it comes to that place for the third time, as hard as a
//! SIGKILL does: nothing is dropped, flushed or said, but for one line on stderr.

macro_rules! points {
    ($($(#[doc = $doc:literal])* $point:ident = $name:literal,)*) => {
        /// A place before or after something that lasts, in the order in which a run comes by.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point {
            $($(#[doc = $doc])* $point,)*
        }

        impl Point {
            pub const ALL: &[Self] = &[$(Self::$point,)*];

            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

points! {
    /// A task was read and checked; nothing of it is committed.
    AcceptBefore = "accept.before",
    /// The run is committed; nobody was told.
    AcceptAfter = "accept.after",
    /// A large payload lies in `blobs`; nothing refers to it.
    BlobAfter = "blob.after",
    /// The client was answered or is about to be; the command is not on the queue.
    AnnounceBefore = "announce.before",
    /// The command is on the queue.
    AnnounceAfter = "announce.after",
    /// A request came again, and its stored answer was found.
    AnswerAgain = "answer.again",
    /// A client's or a person's input is committed; nobody was told.
    InputAfter = "input.after",
    /// Commands were pulled; no run was looked at.
    PullAfter = "pull.after",
    /// The run was loaded; it is not claimed.
    ClaimBefore = "claim.before",
    /// The claim is committed; the command is not acknowledged.
    ClaimAfter = "claim.after",
    /// The command is acknowledged.
    AckAfter = "ack.after",
    /// The model call is recorded; nothing was sent.
    CallBefore = "call.before",
    /// The first text has come.
    FirstToken = "call.first_token",
    /// More text has come, and part of it was streamed.
    MidStream = "call.mid_stream",
    /// The reply is complete; nothing of it is committed.
    ReplyBefore = "reply.before",
    /// The reply and the tool calls it asks for are committed.
    ReplyAfter = "reply.after",
    /// A tool is about to run; one that must not run twice is recorded as started.
    ToolBefore = "tool.before",
    /// A tool has had its effect; the log does not know.
    ToolAfter = "tool.after",
    /// Results of tools are about to be committed.
    ResultBefore = "result.before",
    /// Results of tools are committed.
    ResultAfter = "result.after",
    /// Events were committed and sent to watchers.
    FramesAfter = "frames.after",
    /// A snapshot is due and was not kept.
    SnapshotBefore = "snapshot.before",
    /// A snapshot was kept.
    SnapshotAfter = "snapshot.after",
    /// Leases are about to be renewed.
    RenewBefore = "renew.before",
    /// Leases are renewed.
    RenewAfter = "renew.after",
    /// The terminal event is about to be committed.
    EndBefore = "end.before",
    /// The run has ended; its session's next run was not announced.
    EndAfter = "end.after",
    /// The session's next run was announced.
    NextAfter = "next.after",
    /// Overdue runs were marked as dispatched; no command was sent.
    RedriveBefore = "redrive.before",
    /// Their commands were sent.
    RedriveAfter = "redrive.after",
    /// The projector has written rows and checkpoint; they are not committed.
    ProjectBefore = "project.before",
    /// Rows and checkpoint are committed.
    ProjectAfter = "project.after",
}

#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn at(_: Point) {}

#[cfg(feature = "crash-points")]
pub fn at(point: Point) {
    armed::at(point);
}

#[cfg(feature = "crash-points")]
mod armed {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    };

    use super::Point;

    /// What the process was told: the point, and how often it may still be passed.
    static ORDER: LazyLock<Option<(Point, AtomicU64)>> = LazyLock::new(|| {
        let order = std::env::var("STEADFAST_CRASH")
            .ok()
            .filter(|order| !order.is_empty())?;
        Some(read(&order).unwrap_or_else(|| {
            let names: Vec<&str> = Point::ALL.iter().map(|point| point.name()).collect();
            panic!(
                "STEADFAST_CRASH={order} names no crash point; write NAME or NAME:N with one of {}",
                names.join(", ")
            )
        }))
    });

    fn read(order: &str) -> Option<(Point, AtomicU64)> {
        let (name, passage) = order.split_once(':').unwrap_or((order, "1"));
        let point = Point::ALL.iter().copied().find(|point| point.name() == name)?;
        let passage = passage.parse::<u64>().ok().filter(|passage| *passage > 0)?;
        Some((point, AtomicU64::new(passage)))
    }

    pub fn at(point: Point) {
        let Some((_, left)) = ORDER.as_ref().filter(|(armed, _)| *armed == point) else {
            return;
        };
        if left.fetch_sub(1, Ordering::Relaxed) == 1 {
            eprintln!("steadfast: crash point {}", point.name());
            std::process::abort();
        }
    }
}
