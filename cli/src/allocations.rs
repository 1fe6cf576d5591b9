//! What this process allocates, counted by the allocator itself: in builds with the feature `count-allocations` only, for
//! `bench --allocations`. Its two metrics are in no other build, so they are not among those of `steadfast::metrics`.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use prometheus::{
    IntCounter,
    core::{Collector, Desc},
    proto::MetricFamily,
};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

fn count(bytes: usize) {
    ALLOCATIONS.fetch_add(1, Relaxed);
    BYTES.fetch_add(bytes as u64, Relaxed);
}

#[expect(
    unsafe_code,
    reason = "an allocator cannot be written without; each call goes to the system's as it came"
)]
// SAFETY: every promise of the trait is the system allocator's, which does all the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // What grows in place is an allocation too: the allocator was asked.
        count(bytes.saturating_sub(layout.size()));
        unsafe { System.realloc(pointer, layout, bytes) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The counts, as they are when somebody asks.
struct Counts {
    allocations: IntCounter,
    bytes: IntCounter,
}

impl Collector for Counts {
    fn desc(&self) -> Vec<&Desc> {
        [self.allocations.desc(), self.bytes.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (counter, count) in [(&self.allocations, &ALLOCATIONS), (&self.bytes, &BYTES)] {
            counter.reset();
            counter.inc_by(count.load(Relaxed));
        }
        [self.allocations.collect(), self.bytes.collect()].concat()
    }
}

/// Puts the counts among the metrics.
pub fn export() {
    let counter = |name, help| IntCounter::new(name, help).expect("names and helps are constants of this file");
    let counts = Counts {
        allocations: counter(
            "steadfast_allocations_total",
            "Times the allocator was asked for memory.",
        ),
        bytes: counter("steadfast_allocated_bytes_total", "Bytes it was asked for."),
    };
    prometheus::default_registry()
        .register(Box::new(counts))
        .expect("called once, and nothing else has these names");
}
