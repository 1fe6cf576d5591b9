//! The read models and the check, on a store filled through the heart. On SQLite; on Postgres where DATABASE_URL
//! names a server.

mod bed;
mod checking;
mod measuring;
mod projecting;
mod reading;
mod rebuilding;
