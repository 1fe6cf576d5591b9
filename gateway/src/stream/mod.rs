//! The event stream of a run: history from the store, then what happens live, joined without a gap or a double.
//!
//! * [`position`] is pure: which frames follow what a client has seen, whatever the feed loses, doubles or reorders.
//! * [`text`] renders frames as server-sent events and hides what the client did not ask for.
//! * [`follow`] drives them: subscribe first, then read the store, then listen. It is pulled by the connection, so a
//!   slow client holds no buffer: it falls behind on the feed and is sent to the store.
//! * [`send`] writes what they give to the client's connection, which it needs no large buffers for.
//! * [`slots`] bounds how many there are.
//!
//! A disconnect ends the stream and nothing else: the run goes on.

pub mod follow;
pub mod position;
pub mod send;
pub mod slots;
pub mod text;

#[cfg(test)]
mod property;
