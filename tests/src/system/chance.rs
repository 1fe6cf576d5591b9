//! Chance that can be had again: a test prints its seed, and takes one from `STEADFAST_TEST_SEED`.

/// splitmix64.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// The seed of a test, printed under its name.
    pub fn seed(test: &str) -> u64 {
        let given = std::env::var("STEADFAST_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
            now.as_secs()
                .wrapping_mul(1_000_003)
                .wrapping_add(u64::from(now.subsec_nanos()))
        });
        println!("{test}: STEADFAST_TEST_SEED={seed}");
        seed
    }

    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from 0 up to, not including, `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end.max(1)
    }
}
