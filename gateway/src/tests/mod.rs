//! The gateway over real sockets, on SQLite and the in-process queue and feed.

mod accept;
mod connection;
mod drain;
mod house;
mod identity;
mod keys;
mod limits;
mod people;
mod reading;
mod stream;
mod tools;
