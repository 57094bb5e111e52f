//! Lines for the journal of systemd: without time and colours, and with their priority.
//!
//! ```text
//! <4> WARN session down slot=0      the journal removes <4>, and keeps it as the priority (sd-daemon(3))
//! ```

use std::fmt;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields, Full, Writer};
use tracing_subscriber::registry::LookupSpan;

/// Returns whether standard error is a stream of the journal.
#[cfg(target_os = "linux")]
pub(super) fn is_standard_error() -> bool {
    // As device:inode (systemd.exec(5)). Compared, because a child of a service may have another standard error.
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else {
        return false;
    };
    rustix::fs::fstat(std::io::stderr())
        .is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_standard_error() -> bool {
    false
}

/// Writes a line for the journal.
#[derive(Debug)]
pub(super) struct Format(format::Format<Full, ()>);

impl Format {
    pub(super) fn new(has_target: bool) -> Self {
        let format = format::format().with_target(has_target);
        Self(format.with_ansi(false).without_time())
    }
}

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG.
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(context, writer, event)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Written;
    use super::*;

    #[test]
    fn journal_line_has_priority_and_no_time() {
        let written = Written::default();
        let lines = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || lines.clone())
            .event_format(Format::new(false))
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(slot = 3, "session down");
            tracing::info!("session up");
        });
        let text = written.text();
        assert_eq!(text, "<4> WARN session down slot=3\n<6> INFO session up\n");
    }
}
