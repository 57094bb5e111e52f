//! The journal after a crash, on a full disk, and at its bounds.

use super::*;
use crate::data_dir::PrivateDir;
use crate::testing::TempDir;

const NAME: &str = "journal.redb";

const BOUNDS: Bounds = Bounds {
    entries_max: 1000,
    bytes_max: 1 << 20,
};

fn attempt(call: u8, attempt: u32) -> CallAttempt {
    CallAttempt {
        call: [call; 16],
        attempt,
    }
}

fn open(dir: &TempDir, bounds: Bounds) -> Journal {
    Journal::open(&private(dir.path()), NAME, bounds).unwrap()
}

fn private(path: &std::path::Path) -> PrivateDir {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).unwrap();
    PrivateDir::open(path).unwrap()
}

/// Ends the journal's thread: the file is free again.
async fn close(journal: Journal, dir: &TempDir) {
    drop(journal);
    while let Err(OpenError::File { .. }) =
        Store::open(&private(dir.path()), NAME, BOUNDS).map(drop)
    {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn repeated_attempt_gets_outcome_from_disk() {
    let dir = TempDir::new("journal-again");
    let journal = open(&dir, BOUNDS);
    let (first, second) = (attempt(1, 1), attempt(1, 2));
    assert_eq!(journal.begin(first).await, Ok(JournalEntryState::Unknown));
    assert_eq!(journal.begin(first).await, Ok(JournalEntryState::Begun));
    journal.end(first, Outcome::answered(204)).await.unwrap();
    let before = journal.mark();
    assert_eq!(before.unwrap().sequence, 2);
    close(journal, &dir).await;

    let journal = open(&dir, BOUNDS);
    assert_eq!(journal.mark(), before);
    let ended = Ok(JournalEntryState::Ended(Outcome::answered(204)));
    assert_eq!(journal.begin(first).await, ended);
    assert_eq!(journal.lookup(first).await, ended);
    assert_eq!(journal.lookup(second).await, Ok(JournalEntryState::Unknown));
    // An end without a beginning, and a second end, change nothing.
    journal.end(second, Outcome::answered(200)).await.unwrap();
    journal.end(first, Outcome::answered(500)).await.unwrap();
    assert_eq!(journal.lookup(second).await, Ok(JournalEntryState::Unknown));
    assert_eq!(journal.lookup(first).await, ended);
}

#[tokio::test]
async fn intent_before_crash_is_possibly_executed() {
    let dir = TempDir::new("journal-crash");
    let journal = open(&dir, BOUNDS);
    journal.begin(attempt(1, 1)).await.unwrap();
    close(journal, &dir).await;
    let journal = open(&dir, BOUNDS);
    let Ok(JournalEntryState::Ended(outcome)) = journal.lookup(attempt(1, 1)).await else {
        panic!("it has an outcome");
    };
    assert_eq!(outcome.execution, Execution::PossiblyExecuted);
    assert_eq!(outcome.code, Some(Code::TunnelLost));
    assert_eq!(journal.mark().unwrap().sequence, 2);
    let open = journal.open_outcomes(None, 10).await.unwrap();
    assert_eq!(open, [outcome.to_result(attempt(1, 1))]);
}

#[tokio::test]
async fn acknowledged_outcome_is_not_reported_again() {
    let dir = TempDir::new("journal-acknowledged");
    let journal = open(&dir, BOUNDS);
    for call in 1..=5 {
        journal.begin(attempt(call, 1)).await.unwrap();
        let failure = Failure::possibly_executed(Code::TargetClosed, "");
        let outcome = Outcome::failed(&failure);
        journal.end(attempt(call, 1), outcome).await.unwrap();
    }
    journal.begin(attempt(6, 1)).await.unwrap();
    journal.acknowledge(attempt(2, 1));
    let calls = |results: Vec<DeliveryResult>| -> Vec<u8> {
        results
            .iter()
            .map(|result| result.attempt.call[0])
            .collect()
    };
    let first = journal.open_outcomes(None, 2).await.unwrap();
    let last = first.last().unwrap().attempt;
    assert_eq!(calls(first), [1, 3]);
    let rest = journal.open_outcomes(Some(last), 10).await.unwrap();
    assert_eq!(calls(rest), [4, 5]);
}

#[tokio::test]
async fn full_journal_drops_acknowledged_entries_only() {
    let dir = TempDir::new("journal-full");
    let bounds = Bounds {
        entries_max: 10,
        ..BOUNDS
    };
    let journal = open(&dir, bounds);
    for call in 0..10 {
        journal.begin(attempt(call, 1)).await.unwrap();
        journal
            .end(attempt(call, 1), Outcome::answered(200))
            .await
            .unwrap();
    }
    assert_eq!(
        journal.begin(attempt(10, 1)).await,
        Err(JournalError::Full(10))
    );
    assert!(matches!(
        journal.lookup(attempt(0, 1)).await,
        Ok(JournalEntryState::Ended(_))
    ));
    for call in 0..7 {
        journal.acknowledge(attempt(call, 1));
    }
    assert_eq!(
        journal.begin(attempt(10, 1)).await,
        Err(JournalError::Full(3))
    );
    // The next commit drops the oldest first: more than half were acknowledged.
    assert_eq!(
        journal.begin(attempt(10, 1)).await,
        Ok(JournalEntryState::Unknown)
    );
    assert_eq!(
        journal.lookup(attempt(0, 1)).await,
        Ok(JournalEntryState::Unknown)
    );
    for call in 7..10 {
        let known = journal.lookup(attempt(call, 1)).await;
        assert!(
            matches!(known, Ok(JournalEntryState::Ended(_))),
            "{call}: {known:?}"
        );
    }
}

#[tokio::test]
async fn unreadable_journal_is_set_aside() {
    let dir = TempDir::new("journal-broken");
    let path = dir.path().join("journal.redb");
    let journal = open(&dir, BOUNDS);
    journal.begin(attempt(1, 1)).await.unwrap();
    let before = journal.mark();
    close(journal, &dir).await;
    std::fs::write(&path, [b'x'; 8192]).unwrap();
    let journal = open(&dir, BOUNDS);
    assert_ne!(journal.mark().unwrap().id, before.unwrap().id);
    assert_eq!(journal.mark().unwrap().sequence, 0);
    let names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        names.iter().any(|name| name.contains("unreadable")),
        "{names:?}"
    );
}

#[tokio::test]
async fn concurrent_requests_share_commits() {
    let dir = TempDir::new("journal-many");
    let journal = open(&dir, BOUNDS);
    let mut tasks = tokio::task::JoinSet::new();
    for call in 0..200 {
        let journal = journal.clone();
        tasks.spawn(async move {
            let attempt = attempt(call, 1);
            assert_eq!(journal.begin(attempt).await, Ok(JournalEntryState::Unknown));
            journal.end(attempt, Outcome::answered(200)).await.unwrap();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(journal.mark().unwrap().sequence, 400);
    assert_eq!(journal.open_outcomes(None, 1000).await.unwrap().len(), 200);
}

#[tokio::test]
async fn unacknowledged_entry_is_never_dropped_by_age() {
    let dir = TempDir::new("journal-age");
    let bounds = Bounds {
        entries_max: 400,
        ..BOUNDS
    };
    let journal = open(&dir, bounds);
    for call in 0..=255 {
        let attempt = attempt(call, 1);
        journal.begin(attempt).await.unwrap();
        journal.end(attempt, Outcome::answered(200)).await.unwrap();
    }
    close(journal, &dir).await;
    // As if the clock had been far ahead, and far in the past.
    for at in [0, u64::MAX] {
        store::tests::set_times(&private(dir.path()), NAME, at);
        let journal = open(&dir, bounds);
        for call in 0..=255 {
            assert_eq!(
                journal.begin(attempt(call, 1)).await,
                Ok(JournalEntryState::Ended(Outcome::answered(200))),
                "{call}"
            );
        }
        close(journal, &dir).await;
    }
    // Acknowledged entries after many unacknowledged ones are dropped all the same.
    let journal = open(&dir, bounds);
    for number in 2..=100 {
        for call in 0..4 {
            let attempt = attempt(call, number);
            assert_eq!(
                journal.begin(attempt).await,
                Ok(JournalEntryState::Unknown),
                "{number}"
            );
            journal.end(attempt, Outcome::answered(500)).await.unwrap();
            journal.acknowledge(attempt);
        }
    }
    for call in 0..=255 {
        let known = journal.lookup(attempt(call, 1)).await;
        assert!(
            matches!(known, Ok(JournalEntryState::Ended(_))),
            "{call}: {known:?}"
        );
    }
}

/// Waits until the journal accepts an intent: it is opened again after a pause.
#[cfg(target_os = "linux")]
async fn until_begun(journal: &Journal, attempt: CallAttempt) -> JournalEntryState {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        match journal.begin(attempt).await {
            Ok(known) => return known,
            Err(error) => assert!(std::time::Instant::now() < until, "{error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn journal_works_again_after_a_full_disk() {
    let Some(disk) = crate::testing::SmallDisk::new("journal-disk", 2048) else {
        return;
    };
    let journal = Journal::open(&private(disk.path()), NAME, BOUNDS).unwrap();
    let mark = journal.mark();
    let mut ended = 0;
    let mut failed = None;
    for call in 0..=255 {
        assert_eq!(
            journal.begin(attempt(call, 1)).await,
            Ok(JournalEntryState::Unknown)
        );
        if call == 10 {
            disk.fill();
            // Until a commit fails, for what the file has room for.
            for number in 2.. {
                if let Err(error) = journal.begin(attempt(call, number)).await {
                    assert!(matches!(error, JournalError::Disk(_)), "{error}");
                    failed = Some((attempt(call, number), number));
                    break;
                }
            }
            break;
        }
        ended += 1;
        journal
            .end(attempt(call, 1), Outcome::answered(200))
            .await
            .unwrap();
    }
    let (refused, number) = failed.unwrap();
    // An outcome that cannot be written, and one that is written later.
    let running = attempt(10, 1);
    let unwritten = journal.end(running, Outcome::answered(201)).await;
    assert!(
        matches!(unwritten, Err(JournalError::Disk(_))),
        "{unwritten:?}"
    );
    disk.free();
    // Nothing was sent of the rejected attempt: it may be begun.
    assert_eq!(
        until_begun(&journal, refused).await,
        JournalEntryState::Unknown
    );
    journal.end(running, Outcome::answered(201)).await.unwrap();
    let known = journal.lookup(running).await;
    assert_eq!(known, Ok(JournalEntryState::Ended(Outcome::answered(201))));
    // An attempt that runs in this process is not one of a crash.
    assert_eq!(
        journal.lookup(attempt(10, 2)).await,
        Ok(JournalEntryState::Begun)
    );
    assert_eq!(journal.mark().unwrap().id, mark.unwrap().id);
    let open = journal.open_outcomes(None, 1000).await.unwrap();
    assert_eq!(open.len(), ended + 1, "{number}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn journal_opens_on_a_full_disk_and_works_later() {
    let Some(disk) = crate::testing::SmallDisk::new("journal-start", 2048) else {
        return;
    };
    disk.fill();
    // There is no file yet, and no room for one.
    let journal = Journal::open(&private(disk.path()), NAME, BOUNDS).unwrap();
    let refused = journal.begin(attempt(1, 1)).await;
    assert!(matches!(refused, Err(JournalError::Disk(_))), "{refused:?}");
    disk.free();
    assert_eq!(
        until_begun(&journal, attempt(1, 1)).await,
        JournalEntryState::Unknown
    );
    journal.known_mark().await;
    assert!(journal.mark().is_some());
}
