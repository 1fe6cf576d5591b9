//! SQLite's log comes into the file while the store is open, and does not grow with what is written.

use std::path::Path;

use steadfast::{run::RunId, store::Store};
use tokio::time::{Duration, Instant, sleep};

use crate::bed::*;

const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Whether the file alone, without its log, holds the run.
async fn holds(folder: &Path, run_id: RunId) -> bool {
    let copy = folder.join("copy");
    std::fs::create_dir_all(&copy).expect("a folder");
    let file = copy.join("steadfast.db");
    std::fs::copy(folder.join("steadfast.db"), &file).expect("a copy");
    // Copied in the middle of a checkpoint it may not read: then it is copied again.
    let held = match Store::open(&format!("sqlite://{}", file.display())).await {
        Ok(store) => {
            let events = store.reader.events(run_id, 0, 1).await;
            store.db.close().await;
            events.is_ok_and(|events| events.len() == 1)
        }
        Err(_) => false,
    };
    std::fs::remove_dir_all(&copy).expect("removed");
    held
}

async fn until_held(folder: &Path, run_id: RunId) {
    let began = Instant::now();
    while !holds(folder, run_id).await {
        assert!(began.elapsed() < PATIENCE, "the log was not put into the file");
        sleep(LOOK_AGAIN).await;
    }
}

async fn write(store: &Store, runs: usize) -> RunId {
    let mut last = RunId::default();
    for _ in 0..runs {
        let order = accept("hello");
        last = order.run_id;
        append(store, order).await;
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_comes_into_the_file_while_it_is_open() {
    let bed = Bed::sqlite().await;
    let run_id = write(&bed.store, 1).await;
    until_held(bed.folder(), run_id).await;
}

/// A checkpoint that everybody may write and read beside never comes to the log's end.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_begins_anew_while_others_write_and_read() {
    const SHORT: Duration = Duration::from_secs(3);
    const LONG: Duration = Duration::from_secs(15);
    let bed = Bed::sqlite().await;
    let first = write(&bed.store, 1).await;
    let store = &bed.store;
    let writing = async {
        loop {
            write(store, 1).await;
        }
    };
    let reading = async {
        loop {
            load(store, first).await;
        }
    };
    let watching = async {
        let log = || {
            let file = bed.folder().join("steadfast.db-wal");
            std::fs::metadata(file).expect("the log is there").len()
        };
        sleep(SHORT).await;
        let early = log();
        sleep(LONG - SHORT).await;
        (early, log())
    };
    let (early, late) = tokio::select! {
        () = writing => unreachable!("it writes until it is dropped"),
        () = reading => unreachable!("it reads until it is dropped"),
        seen = watching => seen,
    };
    // Five times as much was written meanwhile.
    assert!(late < early * 3, "the log grew from {early} to {late} bytes");
}
