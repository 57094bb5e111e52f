//! SQLite and PostgreSQL with one interface.
//!
//! ```text
//! program's queries ---> Store --begin, change, snapshot--> Transaction --commit--> known outcome
//!        |                 |
//!        |                 +-- pool        connections that are closed as soon as they are doubtful
//!        +--> Batch -------+-- lease       one process at a time may write, fenced by an epoch
//!             (group       +-- lock        one process at a time serves from a SQLite file
//!              commit)     +-- generation  detects that an older copy has replaced it
//!                          +-- replace     puts another SQLite file in the place of the database
//!                          +-- readiness   can the database be written now?
//!                          +-- probe       is it there? Changes nothing
//! ```
//!
//! Statements are the same text for both databases: text, integer and byte columns, placeholders `$1`,
//! `ON CONFLICT`, `RETURNING`. What differs is in [`Backend`] and in the module of each database. A program
//! brings its own tables as a directory of migrations for each database ([`Migrations`]) and its own
//! queries, which run on [`Store::pool`] or on a [`Transaction`].
//!
//! The store itself needs three tables, which a program's migrations create; `migrations/` of this crate
//! holds them as text:
//!
//! | table | columns | used by |
//! | --- | --- | --- |
//! | `meta` | `id` = 1, `revision`, `generation` | [`Store::change`], [`Generation`], failed commits of SQLite |
//! | `leases` | `name`, `epoch`, `holder`, `node`, `until_ms`, `contended_until_ms` | [`lease`], with one row for each lease |
//! | `readiness` | `id` = 1, `at_ms`, `payload` | [`Store::test_write`] |
//!
//! This crate knows no table of a program, and no program.

mod backup;
pub mod batch;
mod database;
mod engine;
mod fence;
mod generation;
pub mod lease;
mod lock;
mod migrations;
mod owner;
mod probe;
mod readiness;
mod replace;
mod store;
#[cfg(test)]
mod tests;

pub use backup::is_backup;
pub use batch::{Batch, WriteError};
pub use database::{Database, PostgresUrl};
pub use engine::{Backend, Connection, Pool, StoreError, Transaction};
pub use generation::{Found, Generation, GenerationError};
pub use lock::{ServingLock, check_name, lock, lock_existing};
pub use migrations::{MigrationFile, Migrations};
pub use probe::{Probe, probe, read_number};
pub use readiness::Readiness;
pub use replace::{Replaced, check, replace};
pub use store::Store;
