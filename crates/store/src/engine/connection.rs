//! A pooled connection on which no statement waits forever.

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use sqlx::any::{Any, AnyQueryResult, AnyRow, AnyStatement, AnyTypeInfo};
use sqlx::pool::PoolConnection;
use sqlx::{Either, Execute, Executor, SqlStr};
use std::time::Duration;

/// One item of a statement's result: a row, or the number of changed rows.
pub(crate) type Step = Result<Either<AnyQueryResult, AnyRow>, sqlx::Error>;

/// A connection of the pool. Statements run on `&mut connection`.
#[derive(Debug)]
pub struct Connection {
    pooled: PoolConnection<Any>,
    /// The time limit of a statement. SQLite has none: its statements run in this process, and end.
    statement_timeout: Option<Duration>,
}

impl Connection {
    pub(crate) fn new(pooled: PoolConnection<Any>, statement_timeout: Option<Duration>) -> Self {
        Self {
            pooled,
            statement_timeout,
        }
    }

    /// Closes the connection when it is dropped, instead of returning it to the pool.
    pub(crate) fn close_on_drop(&mut self) {
        self.pooled.close_on_drop();
    }

    /// Takes the connection out of the pool and drops it, which needs no async runtime.
    pub(crate) fn detach(self) {
        drop(self.pooled.detach());
    }

    async fn within<T>(
        limit: Option<Duration>,
        running: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        match limit {
            None => running.await,
            Some(limit) => match tokio::time::timeout(limit, running).await {
                Ok(outcome) => outcome,
                Err(_) => Err(timed_out()),
            },
        }
    }
}

/// Returns the error of a server that did not respond in time. It counts as a broken connection.
pub(crate) fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}

impl<'c> Executor<'c> for &'c mut Connection {
    type Database = Any;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Step>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        let limit = self.statement_timeout;
        let steps = (&mut *self.pooled).fetch_many(query);
        // The limit applies to each row. `try_unfold` ends the stream after its first error, as the library's
        // own stream does.
        let steps = stream::try_unfold(steps, move |mut steps| async move {
            let step = Connection::within(limit, async { steps.next().await.transpose() }).await?;
            Ok(step.map(|step| (step, steps)))
        });
        steps.boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<AnyRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        let limit = self.statement_timeout;
        let row = (&mut *self.pooled).fetch_optional(query);
        Box::pin(Connection::within(limit, row))
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [AnyTypeInfo],
    ) -> BoxFuture<'e, Result<AnyStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        (&mut *self.pooled).prepare_with(sql, parameters)
    }
}
