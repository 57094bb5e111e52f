//! Connections and transactions on either database: the pool, what differs between SQLite and PostgreSQL, and errors.
//!
//! `backend` chooses between `sqlite` and `postgres`. `pool` hands out connections, `transaction` commits with a known
//! outcome, `error` tells a failure of the statement from one of the database.

pub(crate) mod backend;
mod connection;
pub(crate) mod error;
mod pool;
mod postgres;
pub(crate) mod sqlite;
mod transaction;

pub use backend::Backend;
pub use connection::Connection;
pub use error::StoreError;
pub use pool::Pool;
pub use transaction::Transaction;

pub(crate) use backend::Connector;
